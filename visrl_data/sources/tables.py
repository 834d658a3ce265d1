"""Open tables of the `datasets` library: a dataset on the Hub, a folder, or files. hf.py reads their rows."""

from __future__ import annotations

import csv
import glob
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from visrl_data.core.errors import VisRLError
from visrl_data.core.hub_access import hub_api
from visrl_data.sources.data_files import CARDS, check_card, check_files, check_saved
from visrl_data.sources.identity import files_digest

if TYPE_CHECKING:
    from datasets import Dataset, DatasetBuilder

_HUB_ID = re.compile(r"(?P<name>[\w.-]+/[\w.-]+)(:(?P<config>[^@:]+))?(@(?P<revision>.+))?")
_KINDS = {".parquet": "parquet", ".jsonl": "json", ".csv": "csv", ".tsv": "csv"}
_NO_ROWS = "no rows. Expected one for each question."
_COMMIT = re.compile("[0-9a-f]{40}")


@dataclass(frozen=True, slots=True)
class SourceTable:
    """A split of a dataset. files: what its rows are stored in; revision: in place of files, the commit on the Hub.

    root: the folder that paths in its image column are relative to. url: its page on the Hub.
    """

    name: str
    rows: Dataset
    root: Path
    files: tuple[Path, ...] = ()
    revision: str = ""
    url: str = ""

    def fingerprint(self) -> str:
        """Return the digest of the files; for the Hub the commit, with the config and the split."""
        return self.revision or files_digest(self.files)


def is_hub_id(text: str) -> bool:
    """Tell whether a text has the form user/name[:config][@revision]."""
    return _HUB_ID.fullmatch(text) is not None


def open_parquet(path: Path) -> SourceTable:
    """Open one .parquet file; image paths in it are relative to its folder. Raises VisRLError."""
    with _readable(str(path)):
        if not pq.read_metadata(path).num_rows:
            raise VisRLError(f"{path}: {_NO_ROWS}")
    return open_files(path.stem, [path], "train")


def open_files(name: str, paths: Sequence[Path], split: str) -> SourceTable:
    """Open files of one kind, .parquet, .jsonl, .csv or .tsv, as the split `split`. Raises VisRLError."""
    from datasets import load_dataset_builder

    kind = _KINDS[paths[0].suffix]
    with _readable(str(paths[0])):
        data_files = {split: [glob.escape(str(path.resolve())) for path in paths]}
        options = _csv_options(paths[0]) if kind == "csv" else {}
        builder = load_dataset_builder(kind, data_files=data_files, **options)
    with _without_bars():
        rows = _prepare(str(paths[0]), builder, split)
    return SourceTable(name, rows, paths[0].parent, files=tuple(paths))


def _csv_options(path: Path) -> dict[str, Any]:
    """Return how `datasets` reads a table of text: each cell as it is written, "007" and "None" too."""
    from datasets import Features, Value

    with open(path, encoding="utf-8-sig", newline="") as file:
        first = file.readline()
        separator = "\t" if path.suffix == ".tsv" else ";" if ";" in first and "," not in first else ","
        file.seek(0)
        names = next(csv.reader(file, delimiter=separator), [])
    if not names or len(set(names)) < len(names):
        raise VisRLError(f"{path}: expected a first line with the name of each column, got {first.strip()!r}"[:300])
    features = Features({name: Value("string") for name in names})
    return {"sep": separator, "features": features, "keep_default_na": False, "encoding": "utf-8-sig"}


def open_folder(path: Path, config: str | None, split: str) -> SourceTable:
    """Open a folder from `save_to_disk`, or one of data files that `datasets` can load. Raises VisRLError."""
    from datasets import load_dataset_builder

    name = path.resolve().name
    if (path / "dataset_dict.json").is_file():
        splits = _saved_splits(path / "dataset_dict.json")
        _check_split(str(path), split, splits)
        return _saved(name, path, path / split)
    if (path / "state.json").is_file():
        return _saved(name, path, path, split)
    for card in CARDS:
        if (path / card).exists():
            check_card(str(path), path / card)
    with _readable(str(path)):
        builder = load_dataset_builder(str(path.resolve()), config)
    for listed in (builder.config.data_files or {}).values():
        check_files(str(path), path, listed)
    with _without_bars():
        rows = _prepare(str(path), builder, split)
    files = tuple(Path(file) for file in builder.config.data_files[split])
    return SourceTable(f"{name}:{config}" if config else name, rows, path, files=files)


def open_hub(text: str, split: str) -> SourceTable:
    """Open user/name[:config][@revision] on the Hub, pinned to the commit that the revision is at now.

    All splits of the config are downloaded. Offline, the dataset is opened from the cache, under the commit that it
    was cached from. Raises VisRLError.
    """
    from datasets import load_dataset_builder
    from huggingface_hub.constants import HF_HUB_CACHE

    match = _HUB_ID.fullmatch(text)
    if match is None:
        raise VisRLError(f"{text!r} is not a Hub id. Expected user/name, user/name:config or user/name@revision.")
    name, config = match["name"], match["config"]
    commit, is_online = _commit(name, match["revision"])
    with _readable(text):
        if is_online:
            _check_cards(text, name, commit)
        builder = load_dataset_builder(name, config, revision=commit)
    if commit and builder.hash != commit:
        # `datasets` falls back to whatever commit is in its cache when the Hub does not respond.
        raise VisRLError(f"{text}: the Hub does not respond, and the cache holds commit {builder.hash}, not {commit}.")
    rows = _prepare(text, builder, split)
    return SourceTable(
        f"{name}:{config}" if config else name,
        rows,
        Path(HF_HUB_CACHE) / f"datasets--{name.replace('/', '--')}",
        revision=f"{name}@{builder.hash}:{builder.config.name}:{split}",
        url=f"https://huggingface.co/datasets/{name}",
    )


def _check_cards(text: str, name: str, commit: str | None) -> None:
    """Raise VisRLError when a dataset on the Hub names data files outside of its repository."""
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    for card in CARDS:
        try:
            path = hub_api().hf_hub_download(name, card, repo_type="dataset", revision=commit)
        except LocalEntryNotFoundError:  # it does not respond: what is not checked is not read
            raise
        except EntryNotFoundError:
            continue
        check_card(text, Path(path))


def _commit(name: str, revision: str | None) -> tuple[str | None, bool]:
    """Return the commit of a revision of a Hub dataset, and whether the Hub said so; offline, it may be None."""
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, HTTPError

    shown = f"{name}@{revision}" if revision else name
    try:
        return hub_api().dataset_info(name, revision=revision, timeout=60).sha, True
    except (HfHubHTTPError, HFValidationError) as error:
        raise VisRLError(
            f"{shown}: the Hub has no such dataset or revision, or not for you ({type(error).__name__}). "
            f"Check the name, and run `hf auth login` for a private or gated one."
        ) from error
    except (HTTPError, OSError) as error:  # no response at all
        if revision and not _COMMIT.fullmatch(revision):
            raise VisRLError(
                f"{shown}: the Hub does not respond ({type(error).__name__}), and a name like {revision!r} "
                f"can only be looked up there. Offline, give the commit of 40 hex digits, or none for the cached one."
            ) from error
        return revision, False


def _saved_splits(file: Path) -> list[str]:
    try:
        return [str(split) for split in json.loads(file.read_text(encoding="utf-8"))["splits"]]
    except (OSError, ValueError, RecursionError, KeyError, TypeError) as error:
        raise VisRLError(f"{file} cannot be read: {type(error).__name__}: {error}"[:400]) from error


def _saved(name: str, root: Path, folder: Path, split: str | None = None) -> SourceTable:
    """Open a dataset from `save_to_disk`; `split`, if given, must be the split that it was saved as."""
    from datasets import load_from_disk

    check_saved(folder)
    with _readable(str(folder)):
        rows = load_from_disk(str(folder))
    if split is not None and rows.split is not None:
        _check_split(str(folder), split, [str(rows.split)])
    return SourceTable(name, rows, root, files=tuple(sorted(folder.glob("*.arrow"))))


def _prepare(what: str, builder: DatasetBuilder, split: str) -> Dataset:
    """Download or convert to Arrow, memory-mapped."""
    splits = builder.info.splits or builder.config.data_files
    if splits:
        _check_split(what, split, splits)
    with _readable(what):
        builder.download_and_prepare()
        _check_split(what, split, builder.info.splits)
        if not builder.info.splits[split].num_examples:
            raise VisRLError(f"{what}: {_NO_ROWS}")
        return builder.as_dataset(split)


def _check_split(what: str, split: str, splits: Iterable[str]) -> None:
    names = [str(name) for name in splits]
    if split not in names:
        raise VisRLError(f"{what}: no split {split!r}. Expected one of: {', '.join(names)}. Choose it with --split.")


@contextmanager
def _without_bars() -> Iterator[None]:
    """Hide the progress bars of `datasets`, which convert local files in a moment."""
    from datasets.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    if are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()


@contextmanager
def _readable(what: str) -> Iterator[None]:
    """Turn the errors of `datasets` that its input causes into one VisRLError."""
    from datasets.arrow_writer import SchemaInferenceError
    from datasets.exceptions import DatasetsError
    from huggingface_hub.errors import HTTPError

    try:
        yield
    except StopIteration as error:  # an empty file of .jsonl
        raise VisRLError(f"{what}: {_NO_ROWS}") from error
    except (
        *(DatasetsError, HTTPError, OSError, ValueError, pa.ArrowException, csv.Error),
        *(TypeError, AttributeError, LookupError),  # a card or a state.json of another shape, which it does not check
    ) as error:
        if isinstance(error.__cause__, SchemaInferenceError):  # nothing to infer the columns from
            raise VisRLError(f"{what}: {_NO_ROWS}") from error
        words = " ".join(f"{error.__cause__ or error}".split())[:600]
        hint = " Name a config as user/name:config or folder:config." if "onfig" in words else ""
        raise VisRLError(f"{what} cannot be read as a dataset: {type(error).__name__}: {words}{hint}") from error
