"""Turn finished runs, and datasets made of earlier runs, into a dataset folder that is committed to the Hub as it is.

    open       runs, dataset folders, datasets of the Hub                 parts.py, hub_fetch.py
    merge      runs made under the same conditions, without repeats       merge.py
    license    of every row; which pictures may be published              licenses.py
    rows       preferences, rl1, rl2, candidates, images                  dataset_rows.py
    write      parquet shards by config and split                         dataset_shards.py
    describe   report, card with its pictures, manifest                   visrl_cards

    data/<config>/<split>-00000-of-0000N.parquet
    README.md  card/             the card and its pictures
    report.json  report.html     of the runs; the page of a single run, when all of its pictures may be published
    LICENSE                      when there are several licenses, or one that the Hub does not know
    runs/                        questions, drops and pairs of the runs, which a later merge reads
    audit/marks.parquet          what people marked in `visrl audit`, where they did
    manifest.json                runs, models, versions, counts, digests; written last

The same runs and options give the same bytes. A config without a row (rl1, rl2 and images of a dataset that
embeds no picture) and a split without one are left out, since the Hub's viewer can't show empty ones.
`restamp` puts another tag and its changes on a finished folder; dataset_checks.py is the gate before a commit.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import pyarrow as pa
import pyarrow.compute as pc

from visrl_data.core.errors import VisRLError
from visrl_data.core.files import file_digest, replace_folder, write_json, write_table, write_text
from visrl_data.core.versions import visrl_version
from visrl_data.publishing import dataset_rows, licenses, merge
from visrl_data.publishing.dataset_shards import grouped, write_config
from visrl_data.publishing.licenses import LicenseTerms
from visrl_data.publishing.merge import Pool
from visrl_data.report.page import render_page
from visrl_data.runs import dataset_files, parts
from visrl_data.runs.dataset_files import KIND, SCHEMA_VERSION, read_facts
from visrl_data.runs.dataset_folder import Dataset, digests, is_dataset, open_dataset
from visrl_data.runs.dataset_schema import CONFIGS
from visrl_data.runs.hub_fetch import HubDataset
from visrl_data.runs.image_fit import ImageFit, image_fit, needs_padding, stock_size
from visrl_data.runs.manifest import (
    DatasetContents,
    DatasetManifest,
    DatasetRun,
    PartSummary,
    ReleaseFields,
    SourceTerms,
)
from visrl_data.runs.marks import TABLE
from visrl_data.runs.pair_set import PairTable
from visrl_data.runs.parts import RUN_TABLES, DatasetPart, Member
from visrl_data.runs.run_folder import Run
from visrl_data.runs.run_report import RunReport


@dataclass(frozen=True, slots=True)
class Stamp:
    """What a dataset says besides its rows.

    data_version: the tag that it will get. hub_id: USER/NAME. languages: of the questions, as ISO codes.
    previous, changes: the tag before, and lines that say what is new since. space: the Space that shows its report.
    """

    data_version: str | None = None
    hub_id: str | None = None
    pretty_name: str | None = None
    languages: tuple[str, ...] = ()
    previous: str | None = None
    changes: tuple[str, ...] = ()
    space: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Contents:
    """All that a dataset folder is written from.

    candidates: return the tables of CANDIDATES. runs: the tables of runs/, by name (parts.RUN_TABLES).
    """

    pairs: PairTable
    candidates: Callable[[], Iterator[pa.Table]]
    runs: dict[str, pa.Table]
    about: DatasetContents
    report: RunReport
    marks: pa.Table
    license_text: str = ""
    report_page: str = ""


def build_dataset(
    sources: Sequence[Path | HubDataset],
    folder: Path,
    stamp: Stamp = Stamp(),
    *,
    license: str | None = None,
    ship_images: bool | None = None,
    pad_square: bool | None = None,
) -> Dataset:
    """Write the dataset of runs and earlier datasets into `folder`; a dataset that was there is replaced as a whole.

    sources: folders of finished runs or of datasets, and datasets of the Hub.
    license: for questions whose source states none. ship_images: None embeds the pictures whose source says
    that they may be redistributed, True all, False none. pad_square: None pads the pictures of rl1 and rl2 where the
    actor was shown padded squares.
    Raises VisRLError: runs made in different ways, no pair, no license, a folder that holds something else.
    """
    pool = merge.merge([_part(source) for source in sources])
    questions, terms = licenses.settle(
        merge.with_candidates(pool), license, ship_images, pool.images.sizes, pool.published
    )
    images = frozenset(questions["image_sha256"].to_pylist())

    def candidates() -> Iterator[pa.Table]:
        for table in merge.candidate_batches(pool):
            yield dataset_rows.candidate_columns(table, questions, pool.members)

    pairs = dataset_rows.pair_columns(pool.distinct, questions, pool.members)
    fit = image_fit(pool.members[0].about, pad_square, stock_size)
    contents = Contents(
        pairs=PairTable(pairs, pool.prompts, pool.images, terms.shipped, fit),
        candidates=candidates,
        runs=pool.tables | {"questions": licenses.fill_licenses(pool.questions, license)},
        about=_about(pool, terms, images, ship_images, fit.pad_square, stamp),
        report=pool.report,
        marks=pool.marks,
        license_text=terms.text,
        report_page=_report_page(pool, terms),
    )
    notes = (*_notes(pool, terms, images, ship_images), *_image_notes(pool, fit))
    return dataclasses.replace(write_dataset(contents, Path(folder)), notes=notes)


def _part(source: Path | HubDataset) -> DatasetPart:
    if isinstance(source, HubDataset):
        return parts.dataset_part(open_dataset(source.folder), source.name, source.commit)
    if is_dataset(source):
        return parts.dataset_part(open_dataset(source), source.resolve().name)
    return parts.run_part(source)


def _report_page(pool: Pool, terms: LicenseTerms) -> str:
    """Return the page of a single run, "" where some picture may not be published.

    The run's own page has its command, with paths and servers, and what was wrong with rows of the source: this one
    is made of what is published of both.
    """
    part = pool.parts[0]
    if part.run is None or len(pool.parts) > 1 or set(pool.questions["image_sha256"].to_pylist()) - terms.shipped:
        return ""
    from visrl_data.pipeline.finalize import COLUMNS

    run, about = Run(part.run), part.members[0].about
    tables = run.table("questions"), run.table("candidates", COLUMNS), run.pairs(), run.unpaired()
    return render_page(run, about["config"], about["run"], merge.shareable_report(part.report), *tables)


def _about(
    pool: Pool, terms: LicenseTerms, images: frozenset[str], ship_images: bool | None, pad_square: bool, stamp: Stamp
) -> DatasetContents:
    """Describe the dataset, but for what is known only after writing."""
    published = pool.distinct.num_rows
    return {
        "kind": KIND,
        "schema_version": SCHEMA_VERSION,
        "generator_versions": sorted({member.about["run"]["versions"]["visrl"] for member in pool.members}),
        "builder_version": visrl_version(),
        "runs": [_run(member) for member in pool.members],
        "parts": list(_parts(pool)),
        "pairs": {"in_runs": published + pool.repeated_pairs, "repeated": pool.repeated_pairs, "published": published},
        "repeated_questions": pool.repeated_questions,
        "images": len(images),
        "unavailable": len(images - pool.images.sizes.keys()),
        "validation_share": dataset_files.VALIDATION_SHARE,
        "license": {
            "id": terms.id,
            "name": terms.name,
            "sources": [cast(SourceTerms, dataclasses.asdict(source)) for source in terms.sources],
        },
        "ship_images": ship_images,
        "pad_square": pad_square,
        **_stamped(stamp),
    }


def _run(member: Member) -> DatasetRun:
    run = cast(DatasetRun, {"id": member.id, **member.about})
    if member.calibration is not None:
        run["calibration"] = member.calibration
    return run


def _parts(pool: Pool) -> Iterator[PartSummary]:
    """Count the rows that each part gave. dataset and commit are null for a run."""
    for part in pool.parts:
        runs = [member.id for member in part.members]
        questions, pairs = (
            int(pc.sum(pc.is_in(table["run"], value_set=pa.array(runs))).as_py() or 0)
            for table in (pool.questions, pool.distinct)
        )
        yield {
            "dataset": part.dataset or None,
            "commit": part.commit or None,
            "runs": runs,
            "questions": questions,
            "pairs": pairs,
        }


def _notes(pool: Pool, terms: LicenseTerms, images: frozenset[str], ship_images: bool | None) -> Iterator[str]:
    """Yield what the user should know: what was left out, and what was published by their decision."""
    for part, rows in zip(pool.parts, _parts(pool), strict=True):
        if len(pool.parts) > 1:
            name = part.dataset or part.members[0].place
            yield f"{name}: {rows['questions']} questions, {rows['pairs']} pairs in the dataset."
    if terms.id == "other" and terms.name != "mixed":
        license = terms.sources[0].license
        yield f"The Hub does not know the license {license!r}: the card says other, and LICENSE names it."
    absent = len(images - pool.images.sizes.keys())
    withheld = len(images) - len(terms.shipped)
    if withheld:
        reason = "as you said" if ship_images is False else "nobody said that they may be redistributed"
        yield f"{withheld} of {len(images)} images are left out: {reason}. `visrl rebuild` restores them by checksum."
    if withheld > absent and ship_images is None:
        yield "If you may redistribute them, --ship-images embeds them."
    if absent:
        yield f"{absent} of them were left out by a dataset that is merged here. To embed them, merge its runs."
    if overruled := sum(source.overruled for source in terms.sources):
        yield f"{overruled} images are published because you said so, although their source says that they may not."
    if pool.repeated_questions or pool.repeated_pairs:
        yield f"Left out as repeated: {pool.repeated_questions} questions, {pool.repeated_pairs} pairs."


def _image_notes(pool: Pool, fit: ImageFit) -> Iterator[str]:
    """Yield how the pictures of rl1 and rl2 differ from the originals, or should."""
    if fit.pad_square:
        yield (
            "The images of rl1 and rl2 are padded to squares, as the actor was shown them; stock processors would cut "
            "their ends off. --no-pad-square leaves them as they are."
        )
    elif needs_padding(pool.members[0].about):
        yield "Stock processors cut the ends of the images of rl1 and rl2 off, where boxes may lie: --pad-square."


def _stamped(stamp: Stamp) -> ReleaseFields:
    fields = {
        key: list(value) if isinstance(value, tuple) else value for key, value in dataclasses.asdict(stamp).items()
    }
    if stamp.space is None:
        del fields["space"]
    return cast(ReleaseFields, fields)


def write_dataset(contents: Contents, folder: Path) -> Dataset:
    """Write a dataset folder, which appears, or is replaced, as a whole."""
    from visrl_cards.pictures import draw_pictures

    with replace_folder(folder, _check_replaceable) as work:
        for config in CONFIGS:
            _write_rows(config, contents, work / "data" / config)
        (work / "runs").mkdir()
        for name, table in contents.runs.items():
            write_table(work / "runs" / f"{name}.parquet", table.cast(RUN_TABLES[name]).combine_chunks())
        if contents.marks.num_rows:
            (work / TABLE).parent.mkdir()
            write_table(work / TABLE, contents.marks)
        write_json(work / "report.json", contents.report)
        if contents.report_page:
            write_text(work / "report.html", contents.report_page)
        if contents.license_text:
            write_text(work / "LICENSE", contents.license_text)
        facts = read_facts(work, CONFIGS)
        added = {
            "counts": {config: {split: f.rows for split, f in splits.items()} for config, splits in facts.items()},
            "example": draw_pictures(work / "card", contents.pairs, contents.report),
            "sha256": digests(work),
        }
        manifest = cast(DatasetManifest, {**contents.about, **added})
        _describe(work, manifest)
    return Dataset(folder, manifest)


def restamp(dataset: Dataset, stamp: Stamp) -> Dataset:
    """Put another tag and its changes on a finished folder: the card and the manifest change, no row does."""
    manifest = cast(DatasetManifest, {**dataset.manifest, **_stamped(stamp)})
    if stamp.space is None:
        manifest.pop("space", None)
    _describe(dataset.folder, manifest)
    return dataclasses.replace(dataset, manifest=manifest)


def _describe(folder: Path, manifest: DatasetManifest) -> None:
    """Write the card, then the manifest."""
    from visrl_cards.dataset import render_dataset_card

    write_text(folder / "README.md", render_dataset_card(folder, manifest))
    card = {"README.md": file_digest(folder / "README.md")}
    manifest["sha256"] = dict(sorted({**manifest["sha256"], **card}.items()))
    write_json(folder / "manifest.json", manifest)


def _write_rows(config: str, contents: Contents, folder: Path) -> None:
    schema = CONFIGS[config].arrow_schema
    if config == "candidates":
        write_config(folder, schema, dataset_rows.by_split(contents.candidates()))
        return
    if config == "preferences":
        rows = dataset_rows.preference_rows(contents.pairs)
    elif config == "images":
        rows = dataset_rows.image_rows(contents.candidates(), contents.pairs)
    else:
        rows = dataset_rows.training_rows(contents.pairs, config)
    write_config(folder, schema, grouped(rows, schema))


def _check_replaceable(folder: Path) -> None:
    """Raise VisRLError when a folder holds what no earlier dataset put there."""
    if folder.exists() and not folder.is_dir():
        raise VisRLError(f"{folder} is no folder. Choose another --output.")
    if unknown := _unknown_files(folder):
        raise VisRLError(f"{folder} holds {unknown[0]}, which `visrl` did not write. Choose another --output.")


def _unknown_files(folder: Path) -> list[str]:
    """Return the files of a folder that no earlier dataset put there."""
    written = {"manifest.json", *open_dataset(folder).manifest["sha256"]} if is_dataset(folder) else set()
    files = sorted(f.relative_to(folder).as_posix() for f in folder.rglob("*") if not f.is_dir())
    return [path for path in files if path not in written]
