"""Large trees and images made from a seed: the same bytes on every machine, so that they need not be kept anywhere.

Text is as repetitive as source code and binaries are not: together they shrink to about 40 % under gzip -6.
"""

import hashlib
import io
import json
import os
import random
import subprocess
import tarfile

POOL_SIZE = 8 << 20


class Content:
    """File contents from a seed."""

    def __init__(self, seed):
        self.random = random.Random(seed)
        words = [bytes(self.random.choices(b"etaoinshrdlucmfwypvbgkjqxz_", k=self.random.randint(2, 11))) for _ in range(6000)]
        weights = [1 / (rank + 5) for rank in range(len(words))]
        breaks = [b" "] * 6 + [b"(", b");\n    ", b" = ", b", "]
        text = bytearray()
        while len(text) < POOL_SIZE:
            for word in self.random.choices(words, weights, k=4096):
                text += word + self.random.choice(breaks)
        self.text = bytes(text[:POOL_SIZE])
        self.noise = self.random.randbytes(POOL_SIZE)

    def file(self, size):
        """Two thirds of the files are text throughout, the others a quarter noise."""
        noisy = self.random.random() < 0.33
        parts, length = [], 0
        while length < size:
            take = min(self.random.randint(300, 6000), size - length)
            pool = self.noise if noisy and self.random.random() < 0.5 else self.text
            start = self.random.randrange(POOL_SIZE - take)
            parts.append(pool[start : start + take])
            length += take
        return b"".join(parts)

    def sizes(self, count, total):
        """As in real trees: many small files, a few that hold most of the bytes."""
        drawn = [self.random.lognormvariate(0, 1.6) for _ in range(count)]
        scale = total / sum(drawn)
        return [max(1, int(size * scale)) for size in drawn]


def entries(content, top, count, total):
    """(path, bytes) of a tree below `top`; bytes are None for a directory."""
    made = set()
    for number, size in enumerate(content.sizes(count, total)):
        folder = f"{top}/{number // 2000:03}/{number % 2000 // 50:02}"
        for depth in range(1, folder.count("/") + 2):
            directory = "/".join(folder.split("/")[:depth])
            if directory not in made:
                made.add(directory)
                yield directory, None
        yield f"{folder}/{number}.dat", content.file(size)


def write_tree(directory, seed, count, total):
    """A tree on disk with fixed times."""
    for path, data in entries(Content(seed), "tree", count, total):
        if data is None:
            os.makedirs(f"{directory}/{path}", exist_ok=True)
        else:
            with open(f"{directory}/{path}", "wb") as file:
                file.write(data)
            os.utime(f"{directory}/{path}", (1_600_000_000, 1_600_000_000))


def tar_layer(path, seed, top, count, total, extra=()):
    """A layer's tar; gives its digest."""
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in [*extra, *entries(Content(seed), top, count, total)]:
            info = tarfile.TarInfo(name)
            info.mtime, info.mode = 1_600_000_000, 0o755 if data is None else 0o644
            info.type = tarfile.DIRTYPE if data is None else tarfile.REGTYPE
            info.size = len(data or b"")
            tar.addfile(info, io.BytesIO(data or b""))
    return sha256(path)


def sha256(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_image(layout, layers):
    """An OCI layout of one image; `layers` are (seed, top, files, bytes)."""
    blobs = f"{layout}/blobs/sha256"
    os.makedirs(blobs, exist_ok=True)

    def put(data):
        digest = hashlib.sha256(data).hexdigest()
        with open(f"{blobs}/{digest}", "wb") as file:
            file.write(data)
        return {"digest": f"sha256:{digest}", "size": len(data)}

    users = b"root:x:0:0::/root:/bin/sh\napp:x:1000:1000::/home/app:/bin/sh\n"
    base = [("etc", None), ("etc/passwd", users), ("etc/group", b"root:x:0:\napp:x:1000:\n"), ("app", None)]
    described, diff_ids = [], []
    for seed, top, count, total in layers:
        tar = f"{layout}/layer.tar"
        diff_ids.append(f"sha256:{tar_layer(tar, seed, top, count, total, base)}")
        with open(f"{layout}/layer.gz", "wb") as out:
            subprocess.run(["gzip", "-6", "-n", "-c", tar], stdout=out, check=True)
        digest, size = sha256(f"{layout}/layer.gz"), os.path.getsize(f"{layout}/layer.gz")
        os.rename(f"{layout}/layer.gz", f"{blobs}/{digest}")
        os.unlink(tar)
        described.append({"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": f"sha256:{digest}", "size": size})
        base = []
    config = {"architecture": "amd64", "os": "linux", "config": {}, "rootfs": {"type": "layers", "diff_ids": diff_ids}}
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", **put(json.dumps(config).encode())},
        "layers": described,
    }
    entry = {"mediaType": manifest["mediaType"], **put(json.dumps(manifest).encode())}
    entry["annotations"] = {"org.opencontainers.image.ref.name": "latest"}
    with open(f"{layout}/index.json", "w") as file:
        json.dump({"schemaVersion": 2, "manifests": [entry]}, file)
    with open(f"{layout}/oci-layout", "w") as file:
        json.dump({"imageLayoutVersion": "1.0.0"}, file)


MIB = 1 << 20
# 1.5 GB in the proportions of a language image: a distribution, tool chains, one layer that holds nearly half.
LARGE = [(1, "usr/lib", 6000, 120 * MIB), (2, "usr/share", 9000, 180 * MIB), (3, "opt/tools", 8000, 500 * MIB), (4, "opt/sdk", 12000, 700 * MIB)]


def large_image(directory, scale=1.0):
    """The layout of the 1.5 GB image, or of a smaller one of the same proportions; made once."""
    layout = f"{directory}/large"
    if not os.path.exists(f"{layout}/oci-layout"):
        write_image(layout, [(seed, top, int(count * scale), int(total * scale)) for seed, top, count, total in LARGE])
    return layout
