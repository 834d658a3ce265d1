"""Write pairs in the file layouts of other trainers: LLaMA-Factory and ms-swift.

Reads a finished run, or a dataset folder with its images; writes picture files once each, and JSON that
points to them. Both trainers take the prompt as one text in which each `<image>` stands for the next picture, so
the parts of a prompt are joined line by line in their own order, and a question that says "<image>" is
broken up (dataset_rows.as_text). Boxes stay the text that the actor writes: ms-swift could convert
`objects` to the habits of another model, but these pairs are about what this actor writes.

    llamafactory   dataset_info.json, <name>.json (sharegpt, ranking), images/   --dataset_dir DIR
    swift          <name>.jsonl (messages, rejected_response), images/           --dataset DIR/<name>.jsonl

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
from visrl_data.core.images import sha256
from visrl_data.core.prompts import PromptPart
from visrl_data.publishing import dataset_rows, merge
from visrl_data.publishing.rebuild import locate
from visrl_data.runs import pair_set, stored_images
from visrl_data.runs.dataset_folder import check_dataset_files, dataset_pairs, is_dataset, open_dataset
from visrl_data.runs.pair_set import PairTable
from visrl_data.runs.parts import run_part

MARKER = "<image>"


@dataclass(frozen=True, slots=True)
class ExportResult:
    """What was written. rows: by file; left_out: pairs without a picture; empty: rows whose win (chosen) is empty."""

    folder: Path
    rows: dict[str, int]
    pictures: int
    left_out: int
    empty: int


def export(source: str | Path, form: str, output: Path) -> ExportResult:
    """Write the pairs of a run, a dataset folder or USER/NAME[@TAG] in a trainer's layout: "llamafactory" or "swift".

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
        tables, empty = _collect(pairs, work)
        FORMATS[form](work, tables, output.resolve())
    return ExportResult(
        folder=output,
        rows={name: len(rows) for name, rows in tables.items()},
        pictures=sum(1 for _ in (output / "images").iterdir()),
        left_out=embedded.count(False),
        empty=empty,
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
        pictures = tuple(_picture_file(folder, data) for data in example.pictures)
        line = ExportRow(example.id, _prompt(example.parts), pictures, example.chosen, example.rejected)
        ending = "" if split == "train" else f"-{split}"
        for name in ("rl1", "rl2") if example.step == "focus" else ("rl2",):
            tables.setdefault(f"{name}{ending}", []).append(line)
    return tables, empty


def _prompt(parts: tuple[PromptPart, ...]) -> str:
    return "\n".join(part.text if part.kind == "text" else MARKER for part in parts)


def _picture_file(folder: Path, data: bytes) -> str:
    """Write a picture under its checksum, once. Returns the path relative to the folder."""
    path = f"images/{sha256(data)}{stored_images.suffix(data)}"
    if not (folder / path).is_file():
        (folder / path).write_bytes(data)
    return path


def _llamafactory(folder: Path, tables: dict[str, list[ExportRow]], final: Path) -> None:
    """Write https://github.com/hiyouga/LLaMA-Factory/blob/main/data/README.md: sharegpt preference data with images."""
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


def _swift(folder: Path, tables: dict[str, list[ExportRow]], final: Path) -> None:
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

    for name, lines in tables.items():
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows(lines))
        write_text(folder / f"{name}.jsonl", text)


FORMATS: dict[str, Callable[[Path, dict[str, list[ExportRow]], Path], None]] = {
    "llamafactory": _llamafactory,
    "swift": _swift,
}
