"""Describe on a dataset card how its runs were made: each sentence follows from the options and models of the runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from visrl_data.core.attempts import plan_from
from visrl_data.core.config import current_options
from visrl_data.core.text import markdown, markdown_code
from visrl_data.runs.manifest import DatasetRun, critic_identity

_DIVERSITY = {
    "attempt": "its attempt by an IoU above {0} (Eq. 3 of the paper)",
    "question": "any attempt by an IoU above {0} (stricter than Eq. 3 of the paper, which looks at one attempt)",
}


def summarize_scoring(runs: Sequence[DatasetRun]) -> str:
    """Return who scored what, as a clause."""
    critic, metric = _critic(runs[0]), _metric(runs[0])
    if metric is None:
        return f"{critic} scored {'both steps' if has_box_scores(runs) else 'the responses'}"
    if has_box_scores(runs):
        return f"{critic} scored the crops, and the answer metric {markdown_code(metric)} the responses"
    return f"the answer metric {markdown_code(metric)} scored the responses, and no model judged anything"


def has_box_scores(runs: Sequence[DatasetRun]) -> bool:
    """Return whether a critic scored the boxes of a run, whether or not its pairs were selected by it."""
    return any(run["config"]["box_critic"] for run in runs)


def _metric(run: DatasetRun) -> str | None:
    name: str = current_options(run["config"])["response_critic"]
    return None if name == "model" else name


def _critic(run: DatasetRun) -> str:
    """Name the critic within a sentence, by what is known of it."""
    critic, actor = critic_identity(run["run"], run["config"]), run["run"]["actor"]
    if critic is not None and critic.get("digest") and critic.get("digest") == actor.get("digest"):
        return "the same model, as its own critic,"
    if critic is not None and "critic" in run["config"]:
        return f"the critic, {markdown(critic.get('model', critic['engine']))},"
    return "its original version, the critic," if "origin_base" in run["run"] else "the critic"


def describe_method(runs: Sequence[DatasetRun]) -> Iterator[str]:
    """Yield how candidates were made, scored and paired. Runs of one dataset differ in nothing that is said here."""
    options = current_options(runs[0]["config"])
    yield (
        f"For each question the actor sampled two boxes in each of its attempts (N = {markdown(options['attempts'])}), "
        f"and answered from their crops; {_diversity(options)}."
    )
    if not plan_from(options).is_fixed:
        yield _attempts(options)
    yield from _departures(options)
    scoring = summarize_scoring(runs)
    yield f"{scoring[0].upper()}{scoring[1:]}."
    yield from _pairing(runs)


def _attempts(options: dict[str, Any]) -> str:
    """Say when a question got more or fewer attempts than N, which the paper does not do."""
    plan = plan_from(options)
    size = "one attempt" if plan.stop_early else f"{plan.attempts} attempts"
    return (
        f"A question got {size} at a time, {plan.max_attempts} at most, until its candidates made a pair under the "
        "run's own thresholds; the paper gives N to each."
    )


def _diversity(options: dict[str, Any]) -> str:
    kind = options["diversity"]
    if kind == "off":
        return "no diversity controller ran, unlike in the paper (Eq. 3)"
    near = _DIVERSITY[kind].format(markdown(options["iou_max"]))
    return f"a diversity controller replaced a second box that overlaps an earlier one of {near}"


def _departures(options: dict[str, Any]) -> Iterator[str]:
    """Yield the options that change replies or scores, where they are not as in the paper."""
    if options.get("lazy"):
        yield "A box whose score lies between the thresholds got no response (`--lazy`)."
    if options.get("constrain"):
        yield "A grammar constrained boxes and scores to their format (`--constrain`)."
    if options.get("score_mode") == "expected":
        yield "A score of the critic is the expected value over its score tokens, not the text that it wrote."
    if options.get("score_step"):
        step = markdown(options["score_step"])
        yield f"Scores were rounded to multiples of {step} before the thresholds, which the paper does not do."


_LOSE = {
    "actor-first": "one whose box the actor wrote came before one whose box the diversity controller drew",
    "hardest": "the one whose box the actor found likeliest is the lose, and boxes of the controller come last",
}


def _pairing(runs: Sequence[DatasetRun]) -> Iterator[str]:
    yield from _selection(runs)
    if lose := runs[0]["filter"].get("lose"):
        yield f"Among equally bad candidates, {_LOSE[lose]} (`--lose {lose}`); the paper does not say which to take."


def _selection(runs: Sequence[DatasetRun]) -> Iterator[str]:
    if runs[0]["filter"]["box_critic"]:
        yield "W holds the candidates whose scores reach the win thresholds, L those at most at the lose thresholds."
        yield (
            "The pair is the best candidate of W and the worst of L (Eq. 4); questions where the two scores disagree "
            "on them were dropped."
        )
        return
    yield "W holds the candidates whose response score reaches the win threshold, L those at most at the lose one."
    yield "The pair is the best candidate of W and the worst of L by the response score alone."
    if has_box_scores(runs):
        yield "The box scores are in `candidates` and decided nothing."
