"""Write pairs in the file layouts of other trainers: LLaMA-Factory, ms-swift and the paper's own code.

Reads a finished run, or a dataset folder with its images; writes picture files once each, and JSON that
points to them. Both trainers take the prompt as one text in which each `<image>` stands for the next picture, so
the parts of a prompt are joined line by line in their own order, and a question that says "<image>" is
broken up (pair_set.as_text). Boxes stay the text that the actor writes: ms-swift could convert
`objects` to the habits of another model, but these pairs are about what this actor writes.

    llamafactory   dataset_info.json, <name>.json (sharegpt, ranking), images/   llamafactory-cli train DIR/<name>.yaml
    swift          <name>.jsonl (messages, rejected_response), images/           bash DIR/<name>.sh
    visrl          export_paper.py

The settings beside the rows (export_settings.py) show pictures as the actor was shown them. Where a program can't be
told to, the picture itself is changed: padded to a square, or resized (runs/image_fit.py). <name> is rl1 (focus rows)
or rl2 (focus and response rows), with -validation for the held-out images. Picture paths are relative to DIR for
LLaMA-Factory, whose media_dir is its dataset_dir, and absolute for ms-swift, which documents no other base; such a
folder must be exported again when it is moved.
"""

from __future__ import annotations

import dataclasses
import json
import shlex
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from visrl_data.core.errors import UsageError, VisRLError
from visrl_data.core.files import check_new, replace_folder, write_json, write_text
from visrl_data.core.hub_access import Say
from visrl_data.publishing import dataset_rows, export_paper, merge
from visrl_data.publishing.export_files import Written, picture_file, prompt_text
from visrl_data.publishing.export_settings import llamafactory_settings, llamafactory_size, swift_command, swift_size
from visrl_data.publishing.rebuild import locate
from visrl_data.runs import pair_set
from visrl_data.runs.dataset_folder import check_dataset_files, dataset_pairs, is_dataset, open_dataset
from visrl_data.runs.image_fit import Program, image_fit, stock_size
from visrl_data.runs.manifest import RunManifest
from visrl_data.runs.pair_set import PairTable
from visrl_data.runs.parts import run_part


@dataclass(frozen=True, slots=True)
class ExportResult:
    """What was written. rows: by file; left_out: pairs without a picture; empty: rows whose win (chosen) is empty.

    grown: pairs whose crop the crop rule made larger than the box; counted where the trainer cuts the box itself.
    no_pixel: pairs without a row in stage 2 of the paper's code, since it would cut no pixel from their box.
    padded: whether the pictures were padded to squares.
    """

    folder: Path
    rows: dict[str, int]
    pictures: int
    left_out: int
    empty: int
    grown: int
    no_pixel: int
    padded: bool


def export(
    source: str | Path, form: str, output: Path, pad_square: bool | None = None, say: Say = lambda _: None
) -> ExportResult:
    """Write the pairs of a run, a dataset folder or USER/NAME[@TAG] in one of the layouts FORMATS.

    pad_square: None pads pictures to squares where the actor was shown such, but for the paper's own code.
    Raises VisRLError: neither run nor dataset, no pair with a picture, an output folder that is not empty;
    UsageError: another format.
    """
    if form not in FORMATS:
        raise UsageError(f"--format {form}: expected one of {', '.join(FORMATS)}.")
    if pad_square and form not in _PROGRAMS:
        raise UsageError(f"--pad-square: the layout {form} takes pictures as they are. Leave it out.")
    check_new(output)
    pairs, run = _pairs(source, say)
    if form in _PROGRAMS:
        pairs = dataclasses.replace(pairs, fit=image_fit(run, pad_square, *_PROGRAMS[form]))
    embedded = [sha in pairs.embedded for sha in pairs.pairs["image_sha256"].to_pylist()]
    if not any(embedded):
        raise VisRLError(
            f"{source} holds no image of any pair. Put them back with: visrl rebuild {shlex.quote(str(source))} "
            "--images DIR -o COMPLETE"
        )
    with replace_folder(output, check_new) as work:
        (work / "images").mkdir()
        written = FORMATS[form](pairs, work, output.resolve())
        _write_settings(form, run, work, output.resolve(), written.rows)
    return ExportResult(
        folder=output,
        rows=written.rows,
        pictures=sum(1 for _ in (output / "images").iterdir()),
        left_out=embedded.count(False),
        empty=written.empty,
        grown=written.grown,
        no_pixel=written.no_pixel,
        padded=form in _PROGRAMS and pairs.fit.pad_square,
    )


def _write_settings(form: str, run: RunManifest, folder: Path, final: Path, names: Collection[str]) -> None:
    if form not in _SETTINGS:
        return
    ending, write = _SETTINGS[form]
    for name in names:
        if not name.endswith("-validation"):
            write_text(folder / f"{name}{ending}", write(run, name, final, names))


def _pairs(source: str | Path, say: Say) -> tuple[PairTable, RunManifest]:
    """Return the pairs, and the first of the runs that made them: all were made alike."""
    folder = locate(str(source), say)
    if is_dataset(folder):
        dataset = open_dataset(folder)
        check_dataset_files(dataset, ("data/preferences/", "data/images/"))
        return dataset_pairs(dataset), dataset.manifest["runs"][0]
    pool = merge.merge([run_part(folder)])
    pairs = dataset_rows.pair_columns(pool.distinct, pool.questions, pool.members)
    run = pool.members[0].about
    fit = image_fit(run, False, stock_size)
    return PairTable(pairs, pool.prompts, pool.images, frozenset(pool.images.sizes), fit), run


@dataclass(frozen=True, slots=True)
class ExportRow:
    """One row as text. pictures: files, relative to the folder."""

    id: str
    prompt: str
    pictures: tuple[str, ...]
    chosen: str
    rejected: str


def _collect(pairs: PairTable, folder: Path) -> tuple[dict[str, list[ExportRow]], int]:
    """Collect the rows of each file, and count those left out for an empty answer, which trainers refuse."""
    tables: dict[str, list[ExportRow]] = {}
    empty = 0
    for split, example in pair_set.training_examples(pairs, responses=True):
        if not example.chosen:
            empty += 1
            continue
        pictures = tuple(picture_file(folder, data) for data in example.pictures)
        line = ExportRow(example.id, prompt_text(example.parts), pictures, example.chosen, example.rejected)
        ending = "" if split == "train" else f"-{split}"
        for name in ("rl1", "rl2") if example.step == "focus" else ("rl2",):
            tables.setdefault(f"{name}{ending}", []).append(line)
    return tables, empty


def _llamafactory(pairs: PairTable, folder: Path, final: Path) -> Written:
    """Write https://github.com/hiyouga/LLaMA-Factory/blob/main/data/README.md: sharegpt preference data with images."""
    tables, empty = _collect(pairs, folder)
    info = {}
    for name, lines in tables.items():
        rows = [
            {
                "id": line.id,
                "conversations": [{"from": "human", "value": line.prompt}],
                "chosen": {"from": "gpt", "value": line.chosen},
                "rejected": {"from": "gpt", "value": line.rejected},
                "images": list(line.pictures),
            }
            for line in lines
        ]
        write_json(folder / f"{name}.json", rows)
        columns = {name: name for name in ("chosen", "rejected", "images")}
        info[f"visrl-{name}"] = {
            "file_name": f"{name}.json",
            "formatting": "sharegpt",
            "ranking": True,
            "columns": {"messages": "conversations", **columns},
        }
    write_json(folder / "dataset_info.json", info)
    return _written(tables, empty)


def _swift(pairs: PairTable, folder: Path, final: Path) -> Written:
    """Write https://swift.readthedocs.io, Custom dataset: the DPO format with `images`, as paths in `final`."""

    def rows(lines: list[ExportRow]) -> Iterator[dict[str, Any]]:
        for line in lines:
            yield {
                "id": line.id,
                "messages": [
                    {"role": "user", "content": line.prompt},
                    {"role": "assistant", "content": line.chosen},
                ],
                "rejected_response": line.rejected,
                "images": [str(final / picture) for picture in line.pictures],
            }

    tables, empty = _collect(pairs, folder)
    for name, lines in tables.items():
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows(lines))
        write_text(folder / f"{name}.jsonl", text)
    return _written(tables, empty)


def _written(tables: dict[str, list[ExportRow]], empty: int) -> Written:
    return Written({name: len(rows) for name, rows in tables.items()}, empty)


FORMATS: dict[str, Callable[[PairTable, Path, Path], Written]] = {
    "llamafactory": _llamafactory,
    "swift": _swift,
    "visrl": export_paper.write,
}
_SETTINGS: dict[str, tuple[str, Callable[[RunManifest, str, Path, Collection[str]], str]]] = {
    "llamafactory": (".yaml", llamafactory_settings),
    "swift": (".sh", swift_command),
}
# ms-swift also without its environment: the bounds are then those of a stock processor.
_PROGRAMS: dict[str, tuple[Program, ...]] = {"llamafactory": (llamafactory_size,), "swift": (swift_size, stock_size)}
