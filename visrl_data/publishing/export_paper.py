"""Write pairs for the paper's own code, https://github.com/zhangquanchen/VisRL, a fork of LLaMA-Factory.

    dataset_info.json, images/
    rl1.json   stage 1: conversations, chosen_step, rejected_step (the boxes), images
    rl2.json   stage 2: the same with chosen and rejected (the responses), both steps in one row

Its reader differs from LLaMA-Factory's, and the layout follows it:
- It evaluates `chosen_step` as a list of fractions of the image, whatever the actor wrote, and cuts the crop of
  stage 2 itself: the box, its corners rounded down to pixels, with no crop rule. A box in which that leaves no
  pixel would end its run; such a pair has no row in stage 2.
- It asks for the response with the same text and a second picture after it.
- It looks for the picture of the crop under the `data` folder beside its sources, and for no other: the
  exported folder has to lie there, and picture paths begin with the folder's name.
"""

from __future__ import annotations

import ast
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from visrl_data.core.boxes import Box, Size, make_frame
from visrl_data.core.crops import CropRule, crop_pixels
from visrl_data.core.files import write_json
from visrl_data.publishing.export_files import Written, picture_file, prompt_text
from visrl_data.runs.dataset_files import split_of
from visrl_data.runs.pair_set import PairTable, as_text, rows_of
from visrl_data.runs.stored_images import upright

_BOX_ITSELF = CropRule(min_side=0, max_aspect=1e9)
_STEPS = ("chosen_step", "rejected_step")
_RESPONSES = ("chosen", "rejected")


def write(pairs: PairTable, folder: Path, final: Path) -> Written:
    """Write the files of both stages. final: the folder's place in the end, inside the fork's `data`."""
    tables: dict[str, list[dict[str, Any]]] = {}
    empty = grown = no_pixel = 0
    for pair in rows_of(pairs.pairs):
        if pair["image_sha256"] not in pairs.embedded:
            continue
        picture = picture_file(folder, upright(pairs.pixels(pair["image_sha256"])))
        prompt = prompt_text(pairs.prompts.focus.parts(question=as_text(pair["question"])))
        row = _first_stage(pair, prompt, f"{final.name}/{picture}")
        split = split_of(pair["image_sha256"])
        ending = "" if split == "train" else f"-{split}"
        tables.setdefault(f"rl1{ending}", []).append(row)
        grown += _is_grown(pair)
        if pair["same_response"]:
            continue
        if not _has_pixels(row["chosen_step"]["value"], _size(pair)):
            no_pixel += 1
            continue
        if not pair["win_response"]:
            empty += 1
            continue
        tables.setdefault(f"rl2{ending}", []).append(
            row | _turns(_RESPONSES, [as_text(pair[f"{side}_response"]) for side in ("win", "lose")])
        )
    for name, rows in tables.items():
        write_json(folder / f"{name}.json", rows)
    write_json(folder / "dataset_info.json", {f"visrl-{name}": _info(name) for name in tables})
    return Written({name: len(rows) for name, rows in tables.items()}, empty, grown, no_pixel)


def _first_stage(pair: dict[str, Any], prompt: str, picture: str) -> dict[str, Any]:
    return {
        "id": pair["id"],
        "conversations": [{"from": "human", "value": prompt}],
        **_turns(_STEPS, [_fractions(pair[f"{side}_box"], _size(pair)) for side in ("win", "lose")]),
        "images": [picture],
    }


def _turns(columns: Sequence[str], texts: Sequence[str]) -> dict[str, dict[str, str]]:
    return {column: {"from": "gpt", "value": text} for column, text in zip(columns, texts, strict=True)}


def _size(pair: dict[str, Any]) -> Size:
    return (pair["image_width"], pair["image_height"])


def _fractions(box: Sequence[float], size: Size) -> str:
    """Write a box as fractions of the image with three decimals, whatever space the actor writes in."""
    frame = make_frame("unit", size)
    return frame.text(frame.to_cells(Box(*box)))


def _has_pixels(text: str, size: Size) -> bool:
    """Return whether the fork's reader cuts a crop from a box: it rounds each corner down to a pixel."""
    x1, y1, x2, y2 = (int(value * side) for value, side in zip(ast.literal_eval(text), (*size, *size), strict=True))
    return x1 < x2 and y1 < y2


def _is_grown(pair: dict[str, Any]) -> bool:
    return tuple(pair["win_crop"]) != crop_pixels(Box(*pair["win_box"]), _size(pair), _BOX_ITSELF)


def _info(name: str) -> dict[str, Any]:
    """Describe a file as the fork's own dataset_info.json does: stage 1 prefers steps, stage 2 both."""
    first = name.startswith("rl1")
    columns = _STEPS if first else _RESPONSES
    return {
        "file_name": f"{name}.json",
        "ranking": True,
        "formatting": "sharegpt",
        "columns": {
            "messages": "conversations",
            **dict(zip(_RESPONSES, columns, strict=True)),
            **({} if first else {step: step for step in _STEPS}),
            "images": "images",
        },
    }
