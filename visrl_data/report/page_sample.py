"""Draw the questions that the page shows, with all of their candidates and a small picture of each image.

Between the report and the page. A run may hold millions of questions and more pixels than fit in memory:
the questions are drawn by a key of (seed, id), so that the same ones are drawn again under other thresholds;
then only their rows are read, shard by shard, and each picture is scaled down as soon as it is read.
"""

from __future__ import annotations

import base64
import heapq
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image

from visrl_data.core import images
from visrl_data.core.boxes import Box, iou
from visrl_data.core.gold_regions import gold_iou
from visrl_data.core.pair_rule import PairRule, membership, rule_from
from visrl_data.core.reading import with_later_columns
from visrl_data.core.seeds import keyed_seed
from visrl_data.core.text import embedded, shown
from visrl_data.runs.run_folder import TABLES, Run
from visrl_data.runs.run_report import ReportSettings
from visrl_data.runs.stored_images import read_images

MOST_PAIRS = 200
MOST_UNPAIRED = 50
MOST_BYTES = 11_000_000  # of pictures and texts on the page; the unpaired get at most a fifth
PICTURE_SIDE = 480  # pixels of the longer side
JPEG_QUALITY = 80
FEW_COLORS = 4096  # a drawing: worth trying as PNG


@dataclass(frozen=True, slots=True)
class GalleryPicture:
    """An image of the page; number is its place in the page. uri: its small copy, "" when it can't be read."""

    number: int
    uri: str
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Sample:
    """What the gallery shows: plain dicts, as the page's script reads them, in the run's order."""

    pairs: list[dict[str, Any]]
    unpaired: list[dict[str, Any]]
    pictures: list[GalleryPicture]


def draw_sample(run: Run, questions: pa.Table, pairs: pa.Table, unpaired: pa.Table, settings: ReportSettings) -> Sample:
    """Draw questions, read what belongs to them, and keep as many as the page has room for.

    settings: those that the pairs were picked with.
    """
    seed = run.config()["seed"]
    pairs = _take(pairs, draw_pairs(pairs["question_id"].to_pylist(), seed))
    unpaired = _take(unpaired, draw_unpaired(unpaired["id"].to_pylist(), unpaired["reason"].to_pylist(), seed))
    ids = pairs["question_id"].to_pylist(), unpaired["id"].to_pylist()
    shown_questions = questions.filter(pc.is_in(questions["id"], pa.array([*ids[0], *ids[1]], pa.string()))).to_pylist()
    items = _items(run, shown_questions, settings)
    uris = read_pictures(run, {row["image_sha256"] for row in shown_questions})
    for item, pair in zip(ids[0], pairs.to_pylist(), strict=True):
        items[item] |= _pair_fields(pair)
    for item, drop in zip(ids[1], unpaired.to_pylist(), strict=True):
        items[item] |= {"reason": drop["reason"], "detail": shown(drop["detail"])}

    sha = {row["id"]: row["image_sha256"] for row in shown_questions}
    taken: set[str] = set()
    few = _that_fit(ids[1], items, sha, uris, taken, MOST_BYTES // 5)
    spent = sum(_cost(items[i]) for i in few) + sum(len(uris[name]) for name in taken)
    many = _that_fit(ids[0], items, sha, uris, taken, MOST_BYTES - spent)
    pictures: dict[str, GalleryPicture] = {}
    for row in shown_questions:
        name = row["image_sha256"]
        if name in taken and name not in pictures:
            pictures[name] = GalleryPicture(len(pictures), uris[name], row["width"], row["height"])
        if name in pictures:
            items[row["id"]]["picture"] = pictures[name].number
    kept = [(items[row["id"]], row["id"]) for row in shown_questions]
    return Sample(
        [item for item, i in kept if i in many], [item for item, i in kept if i in few], list(pictures.values())
    )


def _take(table: pa.Table, rows: list[int]) -> pa.Table:
    return table.take(pa.array(rows, pa.int64()))


def draw_pairs(ids: list[str], seed: int) -> list[int]:
    """Draw rows uniformly without replacement, in the order drawn. A row's key depends on id and seed alone."""
    return [row for _, row in _smallest(ids, range(len(ids)), seed, MOST_PAIRS)]


def draw_unpaired(ids: list[str], reasons: list[str], seed: int) -> list[int]:
    """Draw rows in the same way, with an equal share for each reason as far as it has questions."""
    rows = defaultdict(list)
    for row, reason in enumerate(reasons):
        rows[reason].append(row)
    ranked = [
        (rank, key, row)
        for of_reason in rows.values()
        for rank, (key, row) in enumerate(_smallest(ids, of_reason, seed, MOST_UNPAIRED))
    ]
    return [row for _, _, row in sorted(ranked)[:MOST_UNPAIRED]]


def _smallest(ids: list[str], rows: Iterable[int], seed: int, most: int) -> list[tuple[int, int]]:
    return heapq.nsmallest(most, ((keyed_seed(seed, "page", ids[row]), row) for row in rows))


def _that_fit(
    drawn: list[str], items: dict[str, Any], sha: dict[str, str], uris: dict[str, str], taken: set[str], room: int
) -> set[str]:
    """Return the first of the drawn, until one does not fit; add their pictures to `taken`."""
    kept: set[str] = set()
    for item in drawn:
        room -= _cost(items[item]) + (0 if sha[item] in taken else len(uris[sha[item]]))
        if room < 0:
            break
        kept.add(item)
        taken.add(sha[item])
    return kept


def _cost(item: dict[str, Any]) -> int:
    return len(embedded(item))


def _items(run: Run, shown_questions: list[dict[str, Any]], settings: ReportSettings) -> dict[str, dict[str, Any]]:
    """Return what pairs and unpaired questions have in common, by question id."""
    ids = pa.array([row["id"] for row in shown_questions], pa.string())
    candidates = _rows_of(run, "candidates", pc.field("question_id").isin(ids))
    kinds = _kinds(candidates, rule_from(settings))
    drops = _rows_of(run, "drops", pc.field("id").isin(ids) & pc.field("stage").isin(["focus", "answer"]))
    by_question: dict[str, list[dict[str, Any]]] = {row["id"]: [] for row in shown_questions}
    lost: dict[str, list[dict[str, Any]]] = {row["id"]: [] for row in shown_questions}
    by_id = {row["id"]: row for row in shown_questions}
    for row, kind in zip(candidates.to_pylist(), kinds, strict=True):
        by_question[row["question_id"]].append(_candidate(row, kind, by_id[row["question_id"]], settings["gold_rule"]))
    for row in drops.to_pylist():
        drop = {name: row[name] for name in ("stage", "reason", "attempt")} | {"detail": shown(row["detail"])}
        lost[row["id"]].append(drop)
    return {
        row["id"]: {
            "id": shown(row["id"]),
            "source": shown(row["source"]),
            "question": shown(row["question"]),
            "answers": [shown(answer) for answer in row["answers"][:20]],
            "size": [row["width"], row["height"]],
            "gold": [_pixels(box, row) for box in row["gold_boxes"] or []],
            "candidates": sorted(by_question[row["id"]], key=lambda candidate: candidate["index"]),
            "lost": lost[row["id"]],
        }
        for row in shown_questions
    }


def _kinds(candidates: pa.Table, rule: PairRule) -> list[str]:
    """Return the filter's verdict on each candidate: W, L, between or unparsed."""
    scored, wins, loses = membership(candidates, rule)
    return [
        "W" if win else "L" if lose else "between" if has else "unparsed"
        for has, win, lose in zip(scored.tolist(), wins.tolist(), loses.tolist(), strict=True)
    ]


def _candidate(row: dict[str, Any], kind: str, question: dict[str, Any], gold_rule: str) -> dict[str, Any]:
    gold = [Box(*box) for box in question["gold_boxes"] or []]
    return {
        **{name: row[name] for name in ("index", "attempt", "slot", "crop", "response_finish")},
        "origin": row["box_origin"],
        "relaxed": row["relaxed"],
        "kind": kind,
        "box": _pixels(row["box"], question),
        "box_text": shown(row["box_text"]),
        "reply": shown(row["focus_reply"]),
        "state": row["focus_state"],
        "response": shown(row["response"]),
        "seeds": [str(row["focus_seed"]), str(row["response_seed"])],  # 64 bits: too long for a script's number
        "label_iou": round(gold_iou(Box(*row["box"]), gold, gold_rule), 4) if gold else None,
        "scores": {
            which: {
                "value": row[f"{which}_score"],
                "state": row[f"{which}_score_state"],
                "raw": shown(row[f"{which}_score_raw"] or ""),
                "mass": row[f"{which}_score_mass"],
            }
            for which in ("box", "response")
        },
    }


def _pair_fields(pair: dict[str, Any]) -> dict[str, Any]:
    return {
        "win": pair["win_index"],
        "lose": pair["lose_index"],
        "ties": [pair["win_ties"], pair["lose_ties"]],
        "same": pair["same_response"],
        "iou": round(iou(pair["win_box"], pair["lose_box"]), 4),
    }


def _pixels(box: list[float], question: dict[str, Any]) -> list[float]:
    """Convert unit xyxy to pixels of the original image, to a hundredth."""
    sides = (question["width"], question["height"]) * 2
    return [round(value * side, 2) for value, side in zip(box, sides, strict=True)]


def _rows_of(run: Run, name: str, condition: pc.Expression) -> pa.Table:
    """Read the rows of a table that meet a condition; one row group is in memory at a time."""
    schema = TABLES[name]
    parts = [schema.empty_table()]
    for shard in run.shards(name):
        file = pq.ParquetFile(shard)
        parts += [file.read_row_group(group).filter(condition) for group in range(file.num_row_groups)]
    return pa.concat_tables([with_later_columns(part, schema, schema.names) for part in parts])


def read_pictures(run: Run, images_sha256: set[str]) -> dict[str, str]:
    """Return a small copy of each of these images, by sha256; a few originals are in memory at a time."""
    return {name: small_picture(data) for name, data in read_images(run.shards("images"), images_sha256)}


def small_picture(data: bytes) -> str:
    """Return a data: URI of the original image, at most PICTURE_SIDE pixels long; "" when it can't be read."""
    try:
        kind, small = shrink(images.decode(data), PICTURE_SIDE)
    except images.BadImage:  # stored by a version of Pillow that read it
        return ""
    return f"data:{kind};base64,{base64.b64encode(small).decode()}"


def shrink(picture: Image.Image, side: int) -> tuple[str, bytes]:
    """Return the media type and bytes of a picture, scaled down to at most `side` pixels.

    JPEG, or PNG where that is smaller. The same bytes for the same version of Pillow.
    """
    picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    forms = {"image/jpeg": _encoded(picture, "JPEG", quality=JPEG_QUALITY)}
    if picture.getcolors(FEW_COLORS) is not None:
        forms["image/png"] = _encoded(picture, "PNG")
    kind = min(forms, key=lambda name: len(forms[name]))
    return kind, forms[kind]


def _encoded(picture: Image.Image, form: str, **options: int) -> bytes:
    buffer = BytesIO()
    picture.save(buffer, form, **options)
    return buffer.getvalue()
