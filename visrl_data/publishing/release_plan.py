"""Plan a release: compare the files of a folder with those on the Hub, its card with the last tag's.

Nothing here talks to the Hub; release.py does. A dataset's schema and counts are read from `dataset_info` on the
cards, which the builder takes from the parquet files.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from visrl_data.core.errors import UsageError, VisRLError
from visrl_data.core.files import file_digest
from visrl_data.models.model_folder import RECORD
from visrl_data.publishing.model_release import STAGE_FILES, matches, model_files

# What the Hub puts into a new static Space, beside README.md.
TEMPLATE = ("index.html", "style.css")
# What a release puts on the Hub, and therefore deletes there when a later one no longer has it. Other files stay.
OWNED = {
    "dataset": ("data/*", "card/*", "runs/*", "audit/*", "manifest.json", "report.*", "LICENSE"),
    "model": STAGE_FILES,
    "space": ("report.json", *TEMPLATE),
}
# The file by which a repository is known as one of ours.
MARK = {"dataset": "manifest.json", "model": RECORD, "space": "report.json"}
_TEXT = (".md", ".html", ".json", ".jsonl", ".toml", ".txt", ".svg", ".jinja")
_REGULAR = 10 * 2**20  # bytes; the Hub takes no larger file but as a large one
_LARGE = 2**20  # bytes; smaller files can be written twice within a tick of the file system's clock
_REPO_NAME = re.compile(r"\w(?:[\w.-]{0,94}\w)?", re.ASCII)


@dataclass(frozen=True, slots=True)
class LocalFile:
    """A file to publish. path: where it goes. sha256, blob: its digest as a large file, and as git's blob ("" when
    it is too large for one).
    """

    path: str
    source: Path
    size: int
    sha256: str
    blob: str


@dataclass(frozen=True, slots=True)
class FilePlan:
    """The changes of the one commit. delete: paths on the Hub that the folder no longer has."""

    add: tuple[LocalFile, ...] = ()
    change: tuple[LocalFile, ...] = ()
    delete: tuple[str, ...] = ()
    unchanged: int = 0

    @property
    def is_empty(self) -> bool:
        return not (self.add or self.change or self.delete)

    def lines(self) -> list[str]:
        """Return one line a file, to be read by people."""
        sent = [("+", file) for file in self.add] + [("~", file) for file in self.change]
        return [
            *(f"{mark} {file.path} ({size_text(file.size)})" for mark, file in sent),
            *(f"- {path}" for path in self.delete),
            *([f"= {self.unchanged} files are the same"] if self.unchanged else []),
        ]


@dataclass(frozen=True, slots=True)
class CardFacts:
    """A dataset card's schema and counts. features: config -> column -> type; rows: "config/split" -> count."""

    features: dict[str, dict[str, str]]
    rows: dict[str, int]


@dataclass(frozen=True, slots=True)
class CardChange:
    """lines: every difference; breaking: those that make code written for the old version fail."""

    lines: tuple[str, ...] = ()
    breaking: tuple[str, ...] = ()


def local_files(folder: Path, kind: str) -> tuple[LocalFile, ...]:
    """Return the files of a folder that are published. Raises VisRLError when it is no such folder."""
    if not folder.is_dir():
        raise VisRLError(f"{folder}: no such folder. Give a run folder, a built dataset folder or a model folder.")
    if kind == "model":
        paths = model_files(folder)
    else:
        paths = {f.relative_to(folder).as_posix(): f for f in sorted(folder.rglob("*")) if f.is_file()}
    paths = {path: f for path, f in paths.items() if not _is_hidden(path)}
    needed = [MARK[kind]] if kind == "model" else ["README.md", MARK[kind]]
    missing = [name for name in needed if name not in paths]
    if kind == "model" and not any(path.endswith(".safetensors") for path in paths):
        missing.append("*.safetensors")
    if missing:
        maker = "visrl push RUN" if kind == "dataset" else "visrl train"
        raise VisRLError(f"{folder} is no {kind} to publish: it has no {', '.join(missing)}. `{maker}` makes one.")
    return tuple(_local_file(path, source) for path, source in paths.items())


def _is_hidden(path: str) -> bool:
    return any(part.startswith(".") for part in path.split("/")) or path.endswith((".tmp", ".lock"))


def _local_file(path: str, source: Path) -> LocalFile:
    stat = source.stat()
    # A file can be written twice within a tick of the file system's clock: only large ones are known by their time.
    read = _digests_of_large if stat.st_size >= _LARGE else _digests
    return LocalFile(path, source, stat.st_size, *read(source, stat.st_size, stat.st_mtime_ns))


def _digests(source: Path, size: int, written: int) -> tuple[str, str]:
    return file_digest(source), git_blob(source.read_bytes()) if size <= _REGULAR else ""


_digests_of_large = functools.cache(_digests)


def git_blob(data: bytes) -> str:
    """Return git's id of a file's content, the Hub's digest of files that are not large."""
    return hashlib.sha1(f"blob {len(data)}\0".encode() + data, usedforsecurity=False).hexdigest()


def plan_files(files: Iterable[LocalFile], there: Mapping[str, str], kind: str) -> FilePlan:
    """Return what turns the Hub's files (path -> digest) into the folder's."""
    files = tuple(files)
    paths = {file.path for file in files}
    return FilePlan(
        add=tuple(file for file in files if file.path not in there),
        change=tuple(file for file in files if file.path in there and not is_same(file, there[file.path])),
        delete=tuple(sorted(path for path in there.keys() - paths if matches(path, OWNED[kind]))),
        unchanged=sum(file.path in there and is_same(file, there[file.path]) for file in files),
    )


def is_same(file: LocalFile, digest: str) -> bool:
    """Tell whether the Hub's digest of a file (sha256 of a large one, else git's blob id) is the local file's."""
    return digest in (file.sha256, file.blob)


def unknown_files(plan: FilePlan, there: Mapping[str, str], kind: str, untouched: bool = False) -> list[str]:
    """Return the files that this release would overwrite or delete in a repository that no release was pushed to.

    untouched: it holds what the Hub puts into a new one, and nothing else.
    """
    if MARK[kind] in there:
        return []
    known = {"README.md", *(TEMPLATE if untouched else ())}
    return sorted({*(file.path for file in plan.change), *plan.delete} - known)


def leaks(files: Iterable[LocalFile]) -> list[str]:
    """Find where a text file holds a Hub token or the path of this user's home folder: "FILE, line N: what"."""
    from huggingface_hub import get_token

    home, token = f"{Path.home()}/", get_token()
    secrets = {"a Hub token": r"hf_[A-Za-z0-9]{30,}" + (f"|{re.escape(token)}" if token else "")}
    if home != "//":  # as in containers whose user has no home: then every web address would be one
        secrets[f"the folder {home}"] = re.escape(home)
    lines = []
    for file in files:
        if file.path.endswith(_TEXT) or "." not in file.path.rpartition("/")[2]:
            for number, line in enumerate(file.source.read_text("utf-8", "replace").split("\n"), 1):
                names = [name for name, pattern in secrets.items() if re.search(pattern, line)]
                lines += [f"{file.path}, line {number}: {name}" for name in names]
    return lines


def card_facts(text: str) -> CardFacts:
    """Read schema and counts from a card's YAML head; empty when it has no dataset_info."""
    from huggingface_hub import DatasetCard

    try:
        entries = DatasetCard(text, ignore_metadata_errors=True).data.to_dict().get("dataset_info") or []
    except ValueError as error:
        raise VisRLError(f"README.md: the YAML head cannot be read: {error}") from error
    infos = {info.get("config_name", "default"): info for info in ([entries] if isinstance(entries, dict) else entries)}
    return CardFacts(
        features={name: flat_features(info.get("features") or []) for name, info in infos.items()},
        rows={
            f"{name}/{split['name']}": split["num_examples"]
            for name, info in infos.items()
            for split in info.get("splits") or []
        },
    )


def flat_features(features: list[dict[str, Any]], prefix: str = "") -> dict[str, str]:
    """Return types by column: members of structs as `column.member`, of lists of structs as `column[].member`."""
    types: dict[str, str] = {}
    for feature in features:
        name = prefix + feature["name"]
        kind = {key: value for key, value in feature.items() if key != "name"}
        if isinstance(kind.get("struct"), list):
            types |= flat_features(kind["struct"], f"{name}.")
        elif isinstance(kind.get("list"), list):
            types |= flat_features(kind["list"], f"{name}[].")
        else:
            types[name] = kind["dtype"] if isinstance(kind.get("dtype"), str) else json.dumps(kind, sort_keys=True)
    return types


def compare_cards(old: CardFacts | None, new: CardFacts) -> CardChange:
    """Compare schema and counts. Breaking: a config, split or column is gone, or a column has another type.

    A card without a schema counts as breaking; old is None for a first version.
    """
    if old is None:
        old = CardFacts({}, {})
    elif not old.features:
        unknown = "its card states no schema (dataset_info) to compare with"
        return CardChange((unknown,), (unknown,))
    gone = [f"config {name} is gone" for name in old.features if name not in new.features]
    lines = []
    for config, columns in new.features.items():
        if config not in old.features:
            whole = {re.split(r"\.|\[\]", name)[0] for name in columns}
            lines.append(f"config {config} is new, with {len(whole)} columns")
            continue
        before = old.features[config]
        gone += [f"{config}: column {name} is gone" for name in before if name not in columns]
        for name, kind in columns.items():
            if name not in before:
                lines.append(f"{config}: column {name} ({kind}) is new")
            elif kind != before[name]:
                gone.append(f"{config}: column {name} was {before[name]}, is {kind}")
    for split, rows in old.rows.items():
        if split not in new.rows and split.partition("/")[0] in new.features:
            gone.append(f"split {split} is gone; it had {rows} rows")
    for split, rows in new.rows.items():
        had = old.rows.get(split)
        if had != rows:
            lines.append(f"{split}: {rows} rows" if had is None else f"{split}: {had} -> {rows} rows")
    return CardChange((*gone, *lines), tuple(gone))


def next_tag(tags: Iterable[str], breaking: bool) -> str:
    """Return v1.0, then v1.1, v1.2, ..., and v2.0 after a breaking change. Tags of other forms do not count."""
    versions = [(int(m[1]), int(m[2])) for m in (re.fullmatch(r"v(\d+)\.(\d+)", tag) for tag in tags) if m]
    if not versions:
        return "v1.0"
    major, minor = max(versions)
    return f"v{major + 1}.0" if breaking else f"v{major}.{minor + 1}"


def check_tag(tag: str) -> None:
    """Refuse what git or the Hub would not take as a tag. Raises UsageError."""
    bad = not re.fullmatch(r"[A-Za-z0-9][\w.+/-]{0,99}", tag, re.ASCII) or re.search(r"\.\.|//|/\.|\.lock$|[./]$", tag)
    if bad or tag == "main" or tag.startswith("refs/") or re.fullmatch("[0-9a-f]{7,40}", tag):
        raise UsageError(f"--tag {tag!r} cannot be the name of a version. Expected one like v1.0, v2.3 or iter0.")


def check_hub_id(hub_id: str, owner: str = "") -> None:
    """Refuse what is not user/name as the Hub takes it. owner: of a name without one. Raises UsageError."""
    owner, _, name = (f"{owner}/{hub_id}" if owner else hub_id).partition("/")
    sound = all(_REPO_NAME.fullmatch(part) and not re.search(r"--|\.\.", part) for part in (owner, name))
    if not sound or name.endswith(".git"):
        raise UsageError(f"--hub-id {hub_id!r} is no Hub id. Expected user/name, of letters, digits, '-', '_' and '.'.")


def repo_name(text: str) -> str:
    """Turn a folder's name into one that the Hub takes."""
    name = re.sub(r"[-.]{2,}", "-", re.sub(r"[^\w.-]+", "-", text, flags=re.ASCII)).strip("-._")[:96]
    return re.sub(r"(\.git)?[-._]*$", "", name) or "visrl"


def size_text(size: float) -> str:
    for unit in ("bytes", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


def some(paths: list[str]) -> str:
    """Name the first five."""
    return ", ".join(paths[:5]) + (f" and {len(paths) - 5} more" if len(paths) > 5 else "")
