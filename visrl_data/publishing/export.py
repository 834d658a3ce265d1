"""Write pairs in the file layouts of other trainers: LLaMA-Factory, ms-swift and the paper's own code.

Reads a finished run, or a dataset folder with its images; writes picture files once each, and JSON that
points to them. Both trainers take the prompt as one text in which each `<image>` stands for the next picture, so
the parts of a prompt are joined line by line in their own order, and a question that says "<image>" is
broken up (dataset_rows.as_text). Boxes stay the text that the actor writes: ms-swift could convert
`objects` to the habits of another model, but these pairs are about what this actor writes.

    llamafactory   dataset_info.json, <name>.json (sharegpt, ranking), images/   --dataset_dir DIR
    swift          <name>.jsonl (messages, rejected_response), images/           --dataset DIR/<name>.jsonl
    visrl          export_paper.py

<name> is rl1 (focus rows) or rl2 (focus and response rows), with -validation for the held-out images.
Picture paths are relative to DIR for LLaMA-Factory, whose media_dir is its dataset_dir, and absolute for
ms-swift, which documents no other base; such a folder must be exported again when it is moved.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from visrl_data.core.errors import UsageError, VisRLError
from visrl_data.core.files import check_new, replace_folder, write_json, write_text
from visrl_data.publishing import dataset_rows, export_paper, merge
from visrl_data.publishing.export_files import Written, picture_file, prompt_text
from visrl_data.publishing.rebuild import locate
from visrl_data.runs import pair_set
from visrl_data.runs.dataset_folder import check_dataset_files, dataset_pairs, is_dataset, open_dataset
from visrl_data.runs.pair_set import PairTable
from visrl_data.runs.parts import run_part


@dataclass(frozen=True, slots=True)
class ExportResult:
    """What was written. rows: by file; left_out: pairs without a picture; empty: rows whose win (chosen) is empty.

    grown: pairs whose crop the crop rule made larger than the box; counted where the trainer cuts the box itself.
    """

    folder: Path
    rows: dict[str, int]
    pictures: int
    left_out: int
    empty: int
    grown: int


def export(source: str | Path, form: str, output: Path) -> ExportResult:
    """Write the pairs of a run, a dataset folder or USER/NAME[@TAG] in one of the layouts FORMATS.

    Raises VisRLError: neither run nor dataset, no pair with a picture, an output folder that is not empty;
    UsageError: another format.
    """
    if form not in FORMATS:
        raise UsageError(f"--format {form}: expected one of {', '.join(FORMATS)}.")
    check_new(output)
    pairs = _pairs(source)
    embedded = [sha in pairs.embedded for sha in pairs.pairs["image_sha256"].to_pylist()]
    if not any(embedded):
        raise VisRLError(
            f"{source} holds no image of any pair. Put them back with: visrl rebuild {source} --images DIR -o COMPLETE"
        )
    with replace_folder(output, check_new) as work:
        (work / "images").mkdir()
        written = FORMATS[form](pairs, work, output.resolve())
    return ExportResult(
        folder=output,
        rows=written.rows,
        pictures=sum(1 for _ in (output / "images").iterdir()),
        left_out=embedded.count(False),
        empty=written.empty,
        grown=written.grown,
    )


def _pairs(source: str | Path) -> PairTable:
    folder = locate(str(source))
    if is_dataset(folder):
        dataset = open_dataset(folder)
        check_dataset_files(dataset, ("data/preferences/", "data/images/"))
        return dataset_pairs(dataset)
    pool = merge.merge([run_part(folder)])
    pairs = dataset_rows.pair_columns(pool.distinct, pool.questions, pool.members)
    return PairTable(pairs, pool.prompts, pool.images, frozenset(pool.images.sizes))


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
