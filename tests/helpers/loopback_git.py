"""What the loopback Hub (loopback_hub.py) stores: repositories in memory, with the ids that git would give them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

USER = "user"
LFS_SUFFIXES = (".parquet", ".safetensors", ".arrow", ".bin", ".png")
GITATTRIBUTES = "".join(f"*{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in LFS_SUFFIXES).encode()
# What the Hub puts into a new static Space.
SPACE_TEMPLATE = {
    "README.md": b"---\ntitle: Report\nsdk: static\npinned: false\n---\n",
    "index.html": b"<!doctype html>\n<title>My static Space</title>\n",
    "style.css": b"body { padding: 2rem; }\n",
}
BEGIN = 1_700_000_000  # seconds; commits are dated one second apart


@dataclass(frozen=True)
class Blob:
    """A file. data: its content, or the LFS pointer's text when `sha256` names a large file of `size` bytes."""

    data: bytes
    size: int
    sha256: str = ""

    @property
    def oid(self) -> str:
        return git_id("blob", self.data)


@dataclass(frozen=True)
class Commit:
    oid: str
    parent: str
    files: dict[str, Blob]
    message: str
    date: int


@dataclass
class Repo:
    """One repository. refs: "heads/main", "tags/v1.0", "pr/1" -> commit oid."""

    kind: str
    id: str
    private: bool = False
    commits: dict[str, Commit] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)

    def resolve(self, revision: str) -> Commit | None:
        name = revision.removeprefix("refs/")
        for key in (name, f"heads/{name}", f"tags/{name}"):
            if key in self.refs:
                return self.commits[self.refs[key]]
        return self.commits.get(revision)

    def commit(self, ref: str, files: dict[str, Blob], message: str, parent: str = "") -> Commit:
        date = BEGIN + len(self.commits)
        who = f"{USER} <{USER}@loopback> {date} +0000"
        head = f"tree {tree_id(files)}\n" + (f"parent {parent}\n" if parent else "")
        oid = git_id("commit", f"{head}author {who}\ncommitter {who}\n\n{message}".encode())
        self.commits[oid] = Commit(oid, parent, files, message, date)
        self.refs[ref] = oid
        return self.commits[oid]

    def history(self, commit: Commit) -> list[Commit]:
        commits = [commit]
        while commits[-1].parent:
            commits.append(self.commits[commits[-1].parent])
        return commits


def git_id(kind: str, data: bytes) -> str:
    return hashlib.sha1(f"{kind} {len(data)}\0".encode() + data).hexdigest()


def tree_id(files: dict[str, Blob]) -> str:
    """git's id of a tree: entries sorted by name, a folder's name as if it ended with a slash."""
    folders: dict[str, dict[str, Blob]] = {}
    entries = []
    for path, blob in files.items():
        name, slash, rest = path.partition("/")
        if slash:
            folders.setdefault(name, {})[rest] = blob
        else:
            entries.append((name, f"100644 {name}", blob.oid))
    entries += [(f"{name}/", f"40000 {name}", tree_id(inside)) for name, inside in folders.items()]
    return git_id("tree", b"".join(f"{mode}\0".encode() + bytes.fromhex(oid) for _, mode, oid in sorted(entries)))


def pointer(sha256: str, size: int) -> Blob:
    text = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n"
    return Blob(text.encode(), size, sha256)


def xet_files(store: Path) -> dict[str, str]:
    """sha256 -> Xet hash of the files in hf_xet's local store, read from its shards.

    A shard is a header of 48 bytes, then records of 48: a file's (hash, flags, number of entries), its
    entries, as many for verification if bit 31 of the flags is set, and its sha256 if bit 30 is.
    """
    hashes = {}
    for shard in store.rglob("*.mdb"):
        data, at = shard.read_bytes(), 48
        while data[at : at + 32] not in (b"\xff" * 32, b""):
            flags, entries = (int.from_bytes(data[at + i : at + i + 4], "little") for i in (32, 36))
            name, at = data[at : at + 32], at + 48 * (1 + entries * (1 + (flags >> 31 & 1)))
            if flags >> 30 & 1:
                hashes[_xet_hex(data[at : at + 32])] = _xet_hex(name)
                at += 48
    return hashes


def _xet_hex(data: bytes) -> str:
    """Xet writes a hash as four little-endian numbers of 64 bits."""
    return "".join(data[i : i + 8][::-1].hex() for i in (0, 8, 16, 24))
