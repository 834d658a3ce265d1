"""Open the sources that an evaluation asks, and settle how the answers of each group of questions are scored."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from visrl_data.core.config import GenConfig
from visrl_data.core.errors import UsageError, VisRLError
from visrl_data.core.metrics import OLD_NAMES, has_votes
from visrl_data.core.records import Question
from visrl_data.evaluation.config import SCORES, EvalConfig
from visrl_data.evaluation.predictions import Prediction
from visrl_data.pipeline import factory
from visrl_data.sources.protocol import Source

OTHERS = ""  # key of the score of groups that have none of their own


@dataclass(frozen=True, slots=True)
class EvalSource:
    """A source with the options that open it. scores: group -> score, OTHERS for the rest, where the user named one.

    The others have the set's own: the critic's for Visual-CoT; VQA accuracy where the questions have the answers of
    several annotators; else normalized text.
    """

    name: str
    config: GenConfig
    source: Source
    fingerprint: str
    scores: dict[str, str]

    @property
    def is_judged(self) -> bool:
        return "critic" in (*self.scores.values(), self._default)

    def score_of(self, group: str, is_voted: bool = False) -> str:
        """Return the score of a group. is_voted: whether its questions have the answers of several annotators."""
        score = self.scores.get(group, self._default)
        return "vqa" if is_voted and score == "" else score or "normalized"

    @property
    def _default(self) -> str:
        return self.scores.get(OTHERS, "critic" if self.source.name == "visual-cot" else "")


def open_eval_sources(names: Sequence[str], config: EvalConfig, scores: dict[str, str]) -> list[EvalSource]:
    """Open each source. scores: group -> score, OTHERS for the rest.

    Raises UsageError, also for the score of a group that no question has, and VisRLError for no rows.
    """
    if not names:
        raise UsageError("No source given. Give at least one --source.")
    if len(set(names)) < len(names):
        raise UsageError(f"--source {next(n for n in names if names.count(n) > 1)}: given twice.")
    scores = {group: OLD_NAMES.get(score, score) for group, score in scores.items()}
    for group, score in scores.items():
        if score not in SCORES:
            raise UsageError(f"--score {group}{'=' * bool(group)}{score}: expected one of {', '.join(SCORES)}.")
    eval_sources = []
    for name in names:
        gen = config.gen_config(name)
        source = factory.open_questions(gen)
        if not len(source):
            raise VisRLError(f"Source {name} has no rows in split {config.split!r}.")
        eval_sources.append(EvalSource(name, gen, source, source.fingerprint(), scores))
    _check_groups(eval_sources, scores)
    return eval_sources


def _check_groups(eval_sources: Sequence[EvalSource], scores: Mapping[str, str]) -> None:
    """Raise UsageError for the score of a group that is not there; read rows only until each was seen."""
    missing, groups = set(scores) - {OTHERS}, set[str]()
    for opened, i in ((one.source, i) for one in eval_sources for i in range(len(one.source))):
        if missing <= groups:
            return
        if isinstance(row := opened.read(i), Question):
            groups.add(row.source)
    if groups and (unknown := sorted(missing - groups)):  # where no row can be read, the drops say why
        raise UsageError(f"--score {unknown[0]}=: no question has that source. Sources: {', '.join(sorted(groups))}.")


def scores_and_drops(
    eval_sources: Sequence[EvalSource], predictions: Sequence[Prediction]
) -> tuple[dict[str, str], Counter[str]]:
    """Return the score of each group and the dropped rows by reason. predictions: of any one model."""
    scores: dict[str, str] = {}
    dropped: Counter[str] = Counter()
    start = 0
    for source in eval_sources:
        of_source = predictions[start : start + len(source.source)]
        voted = {p.group for p in of_source if has_votes(p.answers)}
        for p in of_source:
            score = source.score_of(p.group, p.group in voted)
            if p.dropped:
                dropped[p.dropped] += 1
            elif scores.setdefault(p.group, score) != score:
                raise UsageError(
                    f"{p.group} comes from two sources with different scores; choose one: --score {p.group}=SCORE"
                )
        start += len(source.source)
    if not scores:
        reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(dropped.items()))
        first = eval_sources[0]
        command = shlex.join(["visrl", "gen", "--source", first.name, "--split", first.source.split, "--estimate"])
        raise VisRLError(
            f"None of the {len(predictions)} rows came through ({reasons}). `{command}`, with the same options of the "
            "source, shows the first row of each reason."
        )
    return scores, dropped
