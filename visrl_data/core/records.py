"""What travels through the pipeline: Question -> Candidate -> preference pair | Drop.

All records are frozen; pairs are made column-wise by pairing.py and live as rows of PAIR_SCHEMA. Boxes
are unit xyxy (float64, x right, y down, fractions of the width and the height) of the ORIGINAL image, which
is the EXIF-upright RGB picture. The Arrow schemas at the end are the columns of the run folder's shards;
the `*_row` functions convert.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from visrl_data.core.boxes import Box

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True)
class LabelProblem:
    """What was wrong with a gold box. reason: bad_box, box_mismatch (left out); reversed_box (put right)."""

    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class Question:
    """One row of a source.

    image: the encoded bytes as the source gave them; image_sha256 is their digest.
    width, height: pixels of the original image (after EXIF rotation).
    answers: accepted standard answers, at least one; or those of all annotators, which then repeat.
    gold_boxes: for the audit and for SFT only, never seen by generation; may be empty.
    license: SPDX id or the source's own words, "" when nobody stated one.
    ship_image: whether the image may be redistributed (None: nobody said).
    label_problems: what was wrong with gold boxes; stored among the drops, with stage "label".
    """

    id: str
    source: str
    split: str
    question: str
    answers: tuple[str, ...]
    image: bytes = dataclasses.field(repr=False)
    image_sha256: str
    width: int
    height: int
    gold_boxes: tuple[Box, ...] = ()
    source_id: str = ""
    source_url: str = ""
    license: str = ""
    ship_image: bool | None = None
    label_problems: tuple[LabelProblem, ...] = ()


@dataclass(frozen=True, slots=True)
class Drop:
    """Something that left the pipeline, and why. stage: source | label | focus | answer | filter.

    Stage "label" is about a gold box alone: its question stays.

    id is the question's; attempt is set when only an attempt was lost, or one of its boxes.
    """

    id: str
    source: str
    stage: str
    reason: str
    detail: str = ""
    attempt: int | None = None


@dataclass(frozen=True, slots=True)
class Score:
    """A critic's verdict. value is in [0, 1], or None; as the critic gave it unless the run has a score step.

    state: "ok", "unparsed:<reason>", "off" (no box critic in this run), or "skipped" (no response was asked for).
    raw: the reply's text (or the digits of an expected score or a metric), whatever the step; mass: probability on
    the score tokens, only with expected scores.
    """

    value: float | None
    state: str
    raw: str = ""
    mass: float | None = None


@dataclass(frozen=True, slots=True)
class Candidate:
    """One focus box with its response and both scores; a question yields up to 2N of them.

    index: attempt * 2 + slot, unique in its question. slot 0 is the attempt's first valid box, slot 1
    the second, sampled by the actor or put in its place by the diversity controller.
    box_text: canonical text of the box on the actor's lattice; cells: the lattice coordinates in the
    text's order of x1, y1, x2, y2.
    focus_reply: what the model wrote in this slot, also when the controller replaced it.
    focus_state: "ok" or the parser's reason (then the controller filled the slot).
    response, response_finish: "" and "skipped" where --lazy asked for none.
    relaxed: "" or what the controller had to relax ("aspect", "aspect+area", ...).
    crop: pixels (left, top, right, bottom) of the original image that the models saw.
    seeds are the keyed 64-bit seeds of the two sampled calls.
    box_logprob: log-likelihood of focus_reply under the actor at temperature 1, in nats; None for a box that the
    controller drew, and where the engine gives none.
    """

    question_id: str
    index: int
    attempt: int
    slot: int
    box: Box
    cells: tuple[int, int, int, int]
    box_text: str
    box_origin: str
    relaxed: str
    focus_reply: str
    focus_state: str
    focus_seed: int
    box_logprob: float | None
    crop: tuple[int, int, int, int]
    response: str
    response_finish: str
    response_seed: int
    box_score: Score
    response_score: Score


_BOX = pa.list_(pa.float64(), 4)

IMAGE_SCHEMA = pa.schema(
    [("sha256", pa.string()), ("bytes", pa.binary()), ("width", pa.int32()), ("height", pa.int32())]
)

QUESTION_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("source", pa.string()),
        ("split", pa.string()),
        ("question", pa.string()),
        ("answers", pa.list_(pa.string())),
        ("image_sha256", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("gold_boxes", pa.list_(_BOX)),
        ("source_id", pa.string()),
        ("source_url", pa.string()),
        ("license", pa.string()),
        ("ship_image", pa.bool_()),
    ]
)

DROP_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("source", pa.string()),
        ("stage", pa.string()),
        ("reason", pa.string()),
        ("detail", pa.string()),
        ("attempt", pa.int32()),
    ]
)

_SCORE_COLUMNS = [("", pa.float64()), ("_state", pa.string()), ("_raw", pa.string()), ("_mass", pa.float64())]

CANDIDATE_SCHEMA = pa.schema(
    [
        ("question_id", pa.string()),
        ("index", pa.int32()),
        ("attempt", pa.int32()),
        ("slot", pa.int32()),
        ("box", _BOX),
        ("cells", pa.list_(pa.int32(), 4)),
        ("box_text", pa.string()),
        ("box_origin", pa.string()),
        ("relaxed", pa.string()),
        ("focus_reply", pa.string()),
        ("focus_state", pa.string()),
        ("focus_seed", pa.uint64()),
        ("box_logprob", pa.float64()),
        ("crop", pa.list_(pa.int32(), 4)),
        ("response", pa.string()),
        ("response_finish", pa.string()),
        ("response_seed", pa.uint64()),
        *((f"box_score{suffix}", kind) for suffix, kind in _SCORE_COLUMNS),
        *((f"response_score{suffix}", kind) for suffix, kind in _SCORE_COLUMNS),
    ]
)

# Files of earlier versions have no such columns; all values are null there. A version that does not know one passes it
# over, so SCHEMA_VERSION stays.
LATER_COLUMNS = frozenset({"box_logprob"})

# A question's win and lose candidate (Eq. 4). win_ties, lose_ties: how many candidates shared the extreme
# and entered the keyed draw. same_response: the pair trains the box only.
PAIR_SCHEMA = pa.schema(
    [
        ("question_id", pa.string()),
        ("source", pa.string()),
        ("image_sha256", pa.string()),
        ("question", pa.string()),
        ("answers", pa.list_(pa.string())),
        *(
            (f"{side}_{name}", kind)
            for side in ("win", "lose")
            for name, kind in [
                ("index", pa.int32()),
                ("box", _BOX),
                ("box_text", pa.string()),
                ("box_origin", pa.string()),
                ("crop", pa.list_(pa.int32(), 4)),
                ("response", pa.string()),
                ("box_score", pa.float64()),
                ("response_score", pa.float64()),
                ("ties", pa.int32()),
            ]
        ),
        ("same_response", pa.bool_()),
        ("gold_boxes", pa.list_(_BOX)),
    ]
)


def question_row(question: Question) -> dict[str, Any]:
    """Return the columns of QUESTION_SCHEMA; the image's bytes live in IMAGE_SCHEMA."""
    row = {name: getattr(question, name) for name in QUESTION_SCHEMA.names}
    row["gold_boxes"] = [box.xyxy for box in question.gold_boxes]
    return row


def drop_row(drop: Drop) -> dict[str, Any]:
    return {name: getattr(drop, name) for name in DROP_SCHEMA.names}


def candidate_row(candidate: Candidate) -> dict[str, Any]:
    row = {name: getattr(candidate, name) for name in CANDIDATE_SCHEMA.names if hasattr(candidate, name)}
    row["box"] = candidate.box.xyxy
    for which in ("box_score", "response_score"):
        score: Score = getattr(candidate, which)
        row |= {which: score.value, f"{which}_state": score.state, f"{which}_raw": score.raw}
        row[f"{which}_mass"] = score.mass
    return row


def image_row(question: Question) -> dict[str, Any]:
    return {
        "sha256": question.image_sha256,
        "bytes": question.image,
        "width": question.width,
        "height": question.height,
    }
