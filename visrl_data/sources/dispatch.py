"""Open a source of questions: one file per kind of source, and `open_source` finds the kind.

First stage of the flow: source -> Question | Drop. A source is random-access, so that a run can be cut into
chunks by index and an interrupted run resumes without reading finished rows. A bad row is a Drop with its reason
and never an error; what makes the whole source unusable is a VisRLError when it is opened.
"""

from __future__ import annotations

from visrl_data.core.errors import VisRLError
from visrl_data.core.files import expand_home
from visrl_data.sources.options import SourceOptions
from visrl_data.sources.protocol import Source

PUBLISHED = ("gqa", "textvqa", "docvqa", "infographicsvqa", "vsr", "visual7w")  # keys of PUBLISHED_SETS
_DATA_FILES = {".json", ".csv", ".tsv", ".txt", ".arrow", ".gz", ".zst", ".zip", ".tar"}


def open_source(
    source: str | None = None, split: str = "train", limit: int | None = None, options: SourceOptions | None = None
) -> Source:
    """Open a source, and check everything that needs no image.

    source: None, "spotlight" or "spotlight:SETTINGS" (see sources/spotlight.py); a .jsonl, .json, .parquet, .csv or
    .tsv file;
    a folder from `save_to_disk` or of data files; user/name[:config][@revision] on the Hub (with "hf:"
    before it where a local folder has the same name); "visual-cot:" and a file or the folder of that benchmark,
    "visual-cot-train:" and a file or the folder of its training rows; a published set by its name (published_sets.py);
    "mix:" and a file or the name of a mix (mix.py).
    split: selects rows in folders, Hub datasets and spotlight; a single file has no splits, there it is only a label.
    limit: the first rows only; None is all of them (200 of spotlight, which has no end).
    Raises VisRLError.
    """
    options = options or SourceOptions()
    if limit is not None and limit < 1:
        raise VisRLError(f"--limit {limit}: expected at least 1.")
    if source is None or source.partition(":")[0] == "spotlight":
        return _spotlight((source or "").partition(":")[2], split, limit, options)
    if not source:
        raise _unknown(source)
    kind, _, rest = source.partition(":")
    if kind == "visual-cot" and rest:
        from visrl_data.sources.visual_cot import VisualCotSource

        return VisualCotSource(expand_home(rest), split, limit, options)
    if kind == "visual-cot-train" and rest:
        from visrl_data.sources.visual_cot_train import VisualCotTrainSource

        return VisualCotTrainSource(rest, split, limit, options)
    if kind == "mix" and rest:
        from visrl_data.sources.mix import MixSource

        return MixSource(rest, split, limit, options, open_source)
    if kind.partition("@")[0] in PUBLISHED:
        from visrl_data.sources.published_sets import PublishedSetSource

        return PublishedSetSource(source, split, limit, options)
    path = expand_home(source)
    if path.suffix in (".jsonl", ".ndjson", ".json") and not path.is_dir():
        from visrl_data.sources.jsonl import JsonlSource

        return JsonlSource(path, split, limit, options)
    from visrl_data.sources.hf import HfSource
    from visrl_data.sources.tables import is_hub_id, open_files, open_folder, open_hub, open_parquet

    folder, _, config = source.rpartition(":")
    if source.startswith("hf:"):
        table = open_hub(source.removeprefix("hf:"), split)
    elif path.is_dir():
        table = open_folder(path, None, split)
    elif folder and expand_home(folder).is_dir():
        table = open_folder(expand_home(folder), config, split)
    elif path.suffix == ".parquet" and path.is_file():
        table = open_parquet(path)
    elif path.suffix in (".csv", ".tsv") and path.is_file():
        table = open_files(path.stem, [path], "train")
    elif is_hub_id(source) and not path.parent.is_dir() and path.suffix not in _DATA_FILES | {".parquet"}:
        table = open_hub(source, split)
    else:
        raise _unknown(source, is_hub_id(source) and path.parent.is_dir() and path.suffix not in _DATA_FILES)
    return HfSource(table, split, limit, options)


def _spotlight(settings: str, split: str, limit: int | None, options: SourceOptions) -> Source:
    from visrl_data.sources.spotlight import SpotlightSource

    if options.images_root is not None or options.columns or options.license:
        raise VisRLError(
            "spotlight draws its own rows: --images-root, --columns and --license do not apply to it. "
            "Leave them out, or name another --source."
        )
    return SpotlightSource(split, limit, options.ship_images, settings)


def _unknown(source: str, may_be_on_hub: bool = False) -> VisRLError:
    """Return the error. may_be_on_hub: whether it is a Hub id whose user has the name of a folder here."""
    exists = source and expand_home(source).exists()
    problem = "is no kind of file that visrl reads" if exists else "was not found"
    hint = f" The dataset of this name on the Hub is --source hf:{source}." if may_be_on_hub and not exists else ""
    return VisRLError(
        f"--source {source}: {problem}. Expected spotlight, a .jsonl file (one JSON object a line), a .json file "
        "(a list of objects), a .parquet, .csv or .tsv file, a folder of a dataset, "
        "a dataset on the Hub as user/name[:config][@revision], visual-cot:PATH, "
        f"visual-cot-train:PATH, mix:FILE.toml, or a published set: {', '.join(PUBLISHED)}.{hint}"
    )
