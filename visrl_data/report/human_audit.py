"""Say what pairs are worth by human eyes: the marks of `visrl audit` (runs/marks.py) against pairs, critics and labels.

Nothing of it is stored: whoever shows it (inspect, page, card) computes it from the pairs and the marks. A box is
positive (P) when it shows the right place. Where people contradict each other, and where nobody could tell, a
thing is undecided and in no share. Intervals are Wilson's, corrected for the share of the pairs that was seen.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from typing_extensions import TypedDict

from visrl_data.core.gold_regions import POSITIVE_IOU, gold_ious
from visrl_data.core.reading import read_table
from visrl_data.core.records import PAIR_SCHEMA
from visrl_data.core.text import quantity
from visrl_data.report.accounting import box_array
from visrl_data.report.audit import CELLS
from visrl_data.report.formats import format_count, format_number, format_range
from visrl_data.report.measures import cohen_kappa, finite_wilson
from visrl_data.runs.dataset_folder import COPY_AGAIN
from visrl_data.runs.marks import (
    FOLDER,
    UNITS,
    Unit,
    join_marks,
    published_folder,
    read_dataset_marks,
    read_marks,
)
from visrl_data.runs.opening import InspectionTarget
from visrl_data.runs.pair_ids import distinct_pairs, pair_ids
from visrl_data.runs.run_folder import Run
from visrl_data.runs.run_report import AuditShare, ReportSettings

_NONE, _WRONG, _RIGHT, _UNSURE = -1, 0, 1, 2
_Votes = Mapping[Unit, tuple[np.ndarray, np.ndarray]]
"""unit -> of each pair: do people say right, and is that decided."""
_KINDS: dict[str, tuple[Unit, Unit]] = {
    "boxes": ("win_box", "lose_box"),
    "responses": ("win_response", "lose_response"),
}

_LABELS = {
    "win_positive": "win box in the right place",
    "lose_negative": "lose box not in it",
    "win_response_right": "win response right",
    "lose_response_wrong": "lose response wrong",
}


class HumanShare(AuditShare):
    """A share in percent with its interval. total: how many were decided."""

    total: int


class HumanAgreement(TypedDict):
    """How two opinions on the same things agree. kappa: Cohen's."""

    share: HumanShare
    kappa: float | None


class AnnotatorAgreement(HumanAgreement):
    """Agreement of two annotators. kind: boxes or responses."""

    annotators: list[str]
    kind: str


class HumanAudit(TypedDict):
    """What people said of pairs. annotators: pairs of each. pairs: all that there are; seen: those with a mark.

    shares: the cells of Tab. 6, win_positive, lose_negative, win_response_right, lose_response_wrong. undecided: marked
    boxes and responses that are in no share. critics: agreement with what the critics decided, None without a box
    critic. labels: agreement of the boxes with IoU > 0.5, None without a gold box.
    """

    annotators: dict[str, int]
    pairs: int
    seen: int
    shares: dict[str, HumanShare]
    undecided: dict[str, int]
    critics: dict[str, HumanShare | None]
    between: list[AnnotatorAgreement]
    labels: HumanAgreement | None


def target_audit(target: InspectionTarget) -> HumanAudit | None:
    """Return the audit of a run or a dataset, with what was marked since it was published; None without a mark."""
    if target.kind == "run":
        marks = read_marks(target.folder / FOLDER)
        return audit_by_people(Run(target.folder).pairs(), marks, target.report["settings"])
    newer = read_marks(published_folder(target.name)) if "@" in target.name else None
    return dataset_audit(target.folder, target.report["settings"], newer)


def dataset_audit(folder: Path, settings: ReportSettings, newer: pa.Table | None = None) -> HumanAudit | None:
    """Return the audit of a dataset folder by the marks in it and newer ones; None without a mark."""
    marks = join_marks(read_dataset_marks(folder), *([] if newer is None else [newer]))
    if not marks.num_rows:
        return None
    pairs = read_table(folder / "runs" / "pairs.parquet", PAIR_SCHEMA, COPY_AGAIN)
    return audit_by_people(distinct_pairs(pairs), marks, settings)


def audit_by_people(pairs: pa.Table, marks: pa.Table, settings: ReportSettings) -> HumanAudit | None:
    """Return the audit of pairs (PAIR_SCHEMA) by marks (MARK_SCHEMA); None where no mark is of one of them."""
    ids = pair_ids(pairs)
    marks = marks.filter(pc.is_in(marks["pair_id"], value_set=pa.array(ids, pa.string())))
    if not marks.num_rows:
        return None
    names = pc.unique(marks["annotator"]).to_pylist()
    said = {name: _verdicts(marks.filter(pc.equal(marks["annotator"], name)), ids) for name in names}
    every = np.stack(list(said.values()))  # (annotators, pairs, units)
    seen = (every != _NONE).any(axis=(0, 2))
    right, wrong = ((every == value).any(axis=0) for value in (_RIGHT, _WRONG))
    decided, drawn = right ^ wrong, float(seen.mean())
    votes = {unit: (right[:, i], decided[:, i]) for i, unit in enumerate(UNITS)}
    undecided = dict(zip(UNITS, ((every != _NONE).any(axis=0) & ~decided).sum(axis=0).tolist(), strict=True))
    return {
        "annotators": {name: int((of != _NONE).any(axis=1).sum()) for name, of in said.items()},
        "pairs": len(ids),
        "seen": int(seen.sum()),
        "shares": _shares(votes, drawn),
        "undecided": {kind: sum(undecided[unit] for unit in units) for kind, units in _KINDS.items()},
        "critics": {
            "box": _critic(votes, "boxes", drawn) if settings["box_critic"] else None,
            "response": _critic(votes, "responses", drawn),
        },
        "between": list(_between(said, drawn)),
        "labels": _labels(pairs, votes, settings["gold_rule"], drawn),
    }


def _verdicts(marks: pa.Table, ids: Sequence[str]) -> np.ndarray:
    """Return what one annotator said of (pairs, units): _RIGHT, _WRONG, _UNSURE or _NONE."""
    codes = {"right": _RIGHT, "wrong": _WRONG, "unsure": _UNSURE, None: _NONE}
    rows = {row["pair_id"]: [codes[row[unit]] for unit in UNITS] for row in marks.to_pylist()}
    return np.array([rows.get(name, [_NONE] * len(UNITS)) for name in ids], np.int8)


def _share(count: int, total: int, drawn: float) -> HumanShare:
    interval = finite_wilson(count, total, drawn)
    if interval is None:
        return {"count": count, "total": total, "percent": None, "low": None, "high": None}
    low, high = (100 * end for end in interval)
    return {"count": count, "total": total, "percent": 100 * count / total, "low": low, "high": high}


def _shares(votes: _Votes, drawn: float) -> dict[str, HumanShare]:
    (win, win_decided), (lose, lose_decided) = votes["win_box"], votes["lose_box"]
    both = win_decided & lose_decided
    counts = [int((w & k & both).sum()) for w in (win, ~win) for k in (lose, ~lose)]
    shares = {name: _share(count, int(both.sum()), drawn) for name, count in zip(CELLS, counts, strict=True)}
    sides: list[tuple[str, Unit, bool]] = [
        ("win_positive", "win_box", True),
        ("lose_negative", "lose_box", False),
        ("win_response_right", "win_response", True),
        ("lose_response_wrong", "lose_response", False),
    ]
    for name, unit, expected in sides:
        right, decided = votes[unit]
        shares[name] = _share(int((right[decided] == expected).sum()), int(decided.sum()), drawn)
    return shares


def _critic(votes: _Votes, kind: str, drawn: float) -> HumanShare:
    """Return the agreement with the critic, which found the win right and the lose wrong."""
    agreed = [
        right[decided] == (place == 0) for place, unit in enumerate(_KINDS[kind]) for right, decided in [votes[unit]]
    ]
    verdicts = np.concatenate(agreed)
    return _share(int(verdicts.sum()), verdicts.size, drawn)


def _between(said: Mapping[str, np.ndarray], drawn: float) -> Iterator[AnnotatorAgreement]:
    """Yield how each two annotators agree on what both decided."""
    for (name, first), (other, second) in combinations(said.items(), 2):
        for kind, units in _KINDS.items():
            columns = [UNITS.index(unit) for unit in units]
            one, two = first[:, columns].ravel(), second[:, columns].ravel()
            both = np.isin(one, (_RIGHT, _WRONG)) & np.isin(two, (_RIGHT, _WRONG))
            if both.any():
                agreement = _agreement(one[both] == _RIGHT, two[both] == _RIGHT, drawn)
                yield {"annotators": [name, other], "kind": kind, **agreement}


def _agreement(first: np.ndarray, second: np.ndarray, drawn: float) -> HumanAgreement:
    share = _share(int((first == second).sum()), first.size, drawn)
    return {"share": share, "kappa": cohen_kappa(first, second)}


def _labels(pairs: pa.Table, votes: _Votes, rule: str, drawn: float) -> HumanAgreement | None:
    """Return the agreement with the labels on all boxes that were decided and have one."""
    eyes, labels = [], []
    for unit in _KINDS["boxes"]:
        iou = gold_ious(box_array(pairs[unit]), np.arange(pairs.num_rows), pairs["gold_boxes"], rule)
        right, decided = votes[unit]
        known = decided & ~np.isnan(iou)
        eyes.append(right[known])
        labels.append(iou[known] > POSITIVE_IOU)
    one, two = np.concatenate(eyes), np.concatenate(labels)
    return _agreement(one, two, drawn) if one.size else None


def human_rows(audit: HumanAudit) -> list[tuple[str, HumanShare]]:
    """Return the shares under the names by which they are shown."""
    return [(_LABELS.get(name, name), share) for name, share in audit["shares"].items()]


def human_lines(audit: HumanAudit) -> list[str]:
    """Return what stands under the table of the shares: the annotators, and who agrees with whom."""
    names = ", ".join(f"{name} ({quantity(pairs, 'pair')})" for name, pairs in audit["annotators"].items())
    undecided = audit["undecided"]
    lines = [
        f"By {names}: {format_count(audit['seen'])} of {quantity(audit['pairs'], 'pair')} seen. Undecided, and in no "
        f"share: boxes {format_count(undecided['boxes'])}, responses {format_count(undecided['responses'])}."
    ]
    lines += [
        f"The {name} critic agrees with people on {_agreed(share)}."
        for name, share in audit["critics"].items()
        if share is not None and share["total"]
    ]
    for pair in audit["between"]:
        first, second = pair["annotators"]
        lines.append(f"{first} and {second} agree on {_agreed(pair['share'])} of the {pair['kind']}{_kappa(pair)}.")
    if (labels := audit["labels"]) is not None:
        share = _agreed(labels["share"])
        lines.append(f"People and labels (IoU > {POSITIVE_IOU}) agree on {share} of the boxes{_kappa(labels)}.")
    return lines


def _agreed(share: HumanShare) -> str:
    interval = format_range(share["low"], share["high"], 1)
    return f"{format_count(share['count'])} of {format_count(share['total'])} ({interval} %)"


def _kappa(agreement: HumanAgreement) -> str:
    return f", Cohen's kappa {format_number(agreement['kappa'])}"
