"""Reads the last layer of an OCI archive as eStargz, as a lazy reader does: footer, table, each chunk by its offset.

Prints the files with their contents' digests; fails when something is not what the table says.
"""

import gzip, hashlib, io, json, struct, sys, tarfile, zlib


def member(blob, offset):
    return zlib.decompressobj(wbits=31).decompress(blob[offset:])


def sha256(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


with tarfile.open(sys.argv[1]) as archive:
    read = lambda digest: archive.extractfile("blobs/sha256/" + digest.split(":")[1]).read()
    index = json.load(archive.extractfile("index.json"))
    manifest = json.loads(read(index["manifests"][0]["digest"]))
    config = json.loads(read(manifest["config"]["digest"]))
    layer = manifest["layers"][-1]
    blob = read(layer["digest"])

footer = blob[-51:]
assert footer[:4] == b"\x1f\x8b\x08\x04", footer[:4]
extra_length, = struct.unpack("<H", footer[10:12])
assert extra_length == 26 and footer[12:14] == b"SG" and footer[14:16] == b"\x16\x00", footer[10:16]
assert footer[32:38] == b"STARGZ", footer[32:38]
toc_offset = int(footer[16:32], 16)
with tarfile.open(fileobj=io.BytesIO(gzip.decompress(blob[toc_offset:-51]))) as table:
    names = table.getnames()
    assert names == ["stargz.index.json"], names
    toc_bytes = table.extractfile("stargz.index.json").read()
assert layer["annotations"]["containerd.io/snapshot/stargz/toc.digest"] == sha256(toc_bytes)
whole = gzip.decompress(blob)
assert sha256(whole) == config["rootfs"]["diff_ids"][-1]
assert layer["annotations"]["io.containers.estargz.uncompressed-size"] == str(len(whole))

toc = json.loads(toc_bytes)
assert toc["version"] == 1
contents = {}
for entry in toc["entries"]:
    if entry["type"] not in ("reg", "chunk") or not entry.get("chunkDigest"):
        continue
    size = entry.get("chunkSize") or sizes - entry["chunkOffset"] if entry["type"] == "chunk" else entry.get("chunkSize") or entry["size"]
    if entry["type"] == "reg":
        sizes = entry["size"]
    data = member(blob, entry["offset"])[:size]
    assert sha256(data) == entry["chunkDigest"], entry
    contents.setdefault(entry["name"], bytearray()).extend(data)
for entry in toc["entries"]:
    if entry["type"] == "reg" and entry.get("size"):
        data = bytes(contents[entry["name"]])
        assert len(data) == entry["size"] and sha256(data) == entry["digest"], entry
        print(entry["name"], entry["digest"])
with tarfile.open(fileobj=io.BytesIO(whole)) as plain:
    for info in plain:
        if info.isreg() and info.size and info.name != "stargz.index.json":
            assert bytes(contents[info.name]) == plain.extractfile(info).read(), info.name
