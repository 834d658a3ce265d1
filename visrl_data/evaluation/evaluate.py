"""`visrl eval`: models and labelled questions in, one table of what they can do out. Start reading here.

    find       each model, and the ORIGINAL models under them: the baseline and the judge   subjects.py
    ask        focus box, crop, answer; the baseline in one step, without a box     inference.py
    judge      only where the score is "critic": the original model reads the responses
    keep       predictions, chunk by chunk                                          predictions.py
    score      answer score, box accuracy, format validity, paired intervals        scores.py
    show       report.json, and report.html with predictions side by side           page.py

Everything is greedy. Killed at any moment and started again, it goes on; a model that is added to the same
folder is asked, the others are not asked again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from visrl_data.core import files, versions
from visrl_data.core.config import GenConfig, to_toml
from visrl_data.core.errors import UsageError, VisRLError
from visrl_data.core.metrics import OLD_NAMES
from visrl_data.core.prompts import PromptSet, load_prompts
from visrl_data.core.records import Drop, Question
from visrl_data.engines import reply_cache
from visrl_data.engines.protocol import EngineLost, Role
from visrl_data.evaluation import inference, page
from visrl_data.evaluation.config import SCORES, EvalConfig
from visrl_data.evaluation.eval_models import Subject, find_judge, find_subjects, which
from visrl_data.evaluation.inference import Outcome, Way
from visrl_data.evaluation.predictions import Prediction, Shelf, open_shelf, read_predictions, write_chunk
from visrl_data.evaluation.scores import Settings, figures
from visrl_data.models.model_folder import ModelFolder
from visrl_data.pipeline import critics, factory, model_pair
from visrl_data.pipeline.critics import ScoreInput
from visrl_data.pipeline.model_pair import Model
from visrl_data.sources.protocol import Source

_AGAIN = "so are the replies received since. Once the server answers again, run the same command to go on."
OTHERS = ""  # the score of groups that have none of their own


@dataclass(frozen=True, slots=True)
class Asked:
    """A source with the options that open it. scores: group -> score, OTHERS for the rest."""

    name: str
    config: GenConfig
    source: Source
    fingerprint: str
    scores: dict[str, str]

    @property
    def judged(self) -> bool:
        return "critic" in self.scores.values()

    def score(self, group: str) -> str:
        return self.scores.get(group, self.scores[OTHERS])


@dataclass(frozen=True, slots=True)
class Progress:
    """Told after each chunk, and once for what was there already. done, total: rows of all models and sources."""

    model: str
    done: int
    total: int
    resumed: bool


def evaluate(
    models: Sequence[str],
    sources: Sequence[str],
    config: EvalConfig,
    output: Path,
    scores: Mapping[str, str] | None = None,
    on_chunk: Callable[[Progress], None] = lambda _: None,
) -> dict[str, Any]:
    """Ask every model every question, score the replies, write report.json and report.html; returns the report.

    scores: group -> one of SCORES, with OTHERS as the key for the rest. Raises VisRLError for
    anything that the user can mend; what was made until then stays.
    """
    prompts = load_prompts(Path(config.prompts) if config.prompts else None)
    model_pair.check_engines(config.gen_config(""))
    asked = _open_sources(sources, config, dict(scores or {}))
    subjects = find_subjects(models, config, prompts)
    judge = find_judge(subjects, config) if any(one.judged for one in asked) else None
    output.mkdir(parents=True, exist_ok=True)
    with files.lock_folder(output):
        files.write_text(output / "config.toml", to_toml(config))
        shelves = {
            (i, j): _shelf(output, subject, one, judge, config)
            for i, subject in enumerate(subjects)
            for j, one in enumerate(asked)
        }
        _fill(output, subjects, asked, shelves, judge, prompts, on_chunk)
        predictions = [
            [p for j in range(len(asked)) for p in read_predictions(shelves[i, j])] for i in range(len(subjects))
        ]
        report = _report(subjects, asked, predictions, judge, config)
        files.write_json(output / "report.json", report)
        page.write_page(output, report, predictions, [one.source for one in asked])
    return report


def default_output(sources: Sequence[str], config: EvalConfig) -> Path:
    """evals/<sources>-<split>-<digest of the options>: the same for every model, so that they share its folder."""
    digest = hashlib.sha256("\0".join((to_toml(config), *sources)).encode()).hexdigest()[:8]
    names = "-".join(Path(source.removeprefix("visual-cot:")).stem or "source" for source in sources[:3])
    return Path("evals") / f"{names}-{config.split}-{digest}"


def _open_sources(names: Sequence[str], config: EvalConfig, scores: dict[str, str]) -> list[Asked]:
    if not names:
        raise UsageError("No source was named. Give at least one --source.")
    if len(set(names)) < len(names):
        raise UsageError(f"--source {next(n for n in names if names.count(n) > 1)}: named twice.")
    scores = {group: OLD_NAMES.get(score, score) for group, score in scores.items()}
    for group, score in scores.items():
        if score not in SCORES:
            raise UsageError(f"--score {group}{'=' * bool(group)}{score}: expected one of {', '.join(SCORES)}.")
    asked = []
    for name in names:
        gen = config.gen_config(name)
        source = factory.open_questions(gen)
        if not len(source):
            raise VisRLError(f"Source {name} has no rows in split {config.split!r}: nothing to do.")
        default = "critic" if source.name == "visual-cot" else "normalized"
        asked.append(Asked(name, gen, source, source.fingerprint(), {OTHERS: default} | scores))
    return asked


def _shelf(output: Path, subject: Subject, asked: Asked, judge: Model | None, config: EvalConfig) -> Shelf:
    """Where the predictions lie: a folder for all that they depend on."""
    from visrl_data.engines import loading

    way, source = subject.way, asked.source
    about = {
        "model": which(subject.model),
        "source": {"name": source.name, "split": source.split, "fingerprint": asked.fingerprint},
        "read": {name: getattr(config, name) for name in ("images_root", "columns", "gold_space")}
        | ({"allow_urls": config.allow_urls} if config.allow_urls else {}),
        "protocol": config.protocol,
        "steps": way.steps,
        "box_space": way.box_space,
        "crop_rule": way.rule.as_dict() if way.rule else "visual-cot",
        "prompts": way.templates,
        "max_new_tokens": config.max_new_tokens,
        "max_pixels": config.max_pixels,
        "engine": config.engine,
        "device": loading.best_device() if config.device == "auto" else config.device,
        "dtype": config.dtype,
        "versions": versions.library_versions(),
    }
    if asked.judged and judge is not None:
        known = {"digest": judge.digest} if isinstance(judge, ModelFolder) else which(judge)
        about["judge"] = {**known, "prompt": way.prompts.response_critic.id, "scores": asked.scores}
    return open_shelf(output, about, len(source), config.chunk_size)


def _fill(
    output: Path,
    subjects: Sequence[Subject],
    asked: Sequence[Asked],
    shelves: Mapping[tuple[int, int], Shelf],
    judge: Model | None,
    prompts: PromptSet,
    on_chunk: Callable[[Progress], None],
) -> None:
    """Make the chunks that are missing. A model is loaded once, and only when it has something to do."""
    total = sum(shelf.rows for shelf in shelves.values())
    todo = {place: shelf.missing() for place, shelf in shelves.items()}
    done = total - sum(_rows(shelves[place], index) for place, indices in todo.items() for index in indices)
    if done:
        on_chunk(Progress(subjects[0].name, done, total, True))
    for i, subject in enumerate(subjects):
        loaded: tuple[Role, Role | None] | None = None
        for j, one in enumerate(asked):
            for index in todo[i, j]:
                loaded = loaded or _load(one.config, subject.model, judge)
                journal = reply_cache.attach([role.engine for role in loaded if role], output / reply_cache.NAME)
                shelf = shelves[i, j]
                try:
                    predictions = _make_chunk(subject.way, one, loaded, prompts, shelf, index)
                except EngineLost as error:
                    raise VisRLError(f"{error}\n{done} of {total} predictions are kept; {_AGAIN}") from error
                write_chunk(shelf, index, predictions)
                journal.clear()
                done += _rows(shelf, index)
                on_chunk(Progress(subject.name, done, total, False))


def _rows(shelf: Shelf, index: int) -> int:
    return min(shelf.size, shelf.rows - index * shelf.size)


def _load(config: GenConfig, model: Model, judge: Model | None) -> tuple[Role, Role | None]:
    if judge is not None:
        return model_pair.load_roles(config, model, judge)
    return model_pair.load_role(config, model), None


def _make_chunk(
    way: Way, asked: Asked, roles: tuple[Role, Role | None], prompts: PromptSet, shelf: Shelf, index: int
) -> list[Prediction]:
    """One unit of work: the predictions of its rows, in order."""
    first = index * shelf.size
    rows = {i: asked.source.read(i) for i in range(first, first + _rows(shelf, index))}
    questions = {i: row for i, row in rows.items() if isinstance(row, Question)}
    actor, critic = roles
    outcomes = dict(zip(questions, inference.ask([*questions.values()], actor, way, asked.config), strict=True))
    verdicts = {}
    judged = [i for i, q in questions.items() if asked.score(q.source) == "critic" and outcomes[i].response is not None]
    if judged and critic is not None:
        inputs = [ScoreInput(inference.stand_in(questions[i]), outcomes[i].response or "") for i in judged]
        scores = critics.response_critic(asked.config, critic, prompts).score(inputs)
        verdicts = dict(zip(judged, scores, strict=True))
    return [_prediction(i, row, outcomes.get(i), verdicts.get(i, critics.OFF)) for i, row in rows.items()]


def _prediction(row: int, read: Question | Drop, outcome: Outcome | None, verdict: Any) -> Prediction:
    if isinstance(read, Drop) or outcome is None:
        return Prediction(row, read.id, read.source, getattr(read, "reason", ""))
    return Prediction(
        row=row,
        id=read.id,
        group=read.source,
        question=read.question,
        answers=read.answers,
        image_sha256=read.image_sha256,
        width=read.width,
        height=read.height,
        gold_boxes=tuple(box.xyxy for box in read.gold_boxes),
        focus_state=outcome.state,
        focus_reply=outcome.reply,
        box=outcome.box.xyxy if outcome.box else None,
        box_text=outcome.text,
        crop=outcome.crop,
        response=outcome.response,
        finish=outcome.finish,
        verdict=verdict.value,
        verdict_state=verdict.state,
        verdict_raw=verdict.raw,
    )


def _report(
    subjects: Sequence[Subject],
    asked: Sequence[Asked],
    predictions: Sequence[Sequence[Prediction]],
    judge: Model | None,
    config: EvalConfig,
) -> dict[str, Any]:
    """Everything that the table, the page and a study need. "all" is the macro mean over the groups."""
    scores: dict[str, str] = {}
    dropped: dict[str, int] = {}
    start = 0
    for one in asked:
        for p in predictions[0][start : start + len(one.source)]:
            if p.dropped:
                dropped[p.dropped] = dropped.get(p.dropped, 0) + 1
            elif scores.setdefault(p.group, one.score(p.group)) != one.score(p.group):
                raise UsageError(
                    f"{p.group} comes from two sources with different scores; name one: --score {p.group}="
                )
        start += len(one.source)
    unknown = sorted({group for one in asked for group in one.scores} - {OTHERS, *scores})
    if unknown:
        raise UsageError(
            f"--score {unknown[0]}=: no question is of that source. There are: {', '.join(sorted(scores))}."
        )
    settings = Settings(scores, config.gold_rule, config.resamples, config.seed)
    found = figures(predictions, [subject.way.steps for subject in subjects], settings)
    return {
        "groups": sorted(scores),
        "models": [
            {
                "name": subject.name,
                "model": subject.model.id,
                "revision": subject.model.revision,
                "digest": subject.model.digest,
                "steps": subject.way.steps,
                "box_space": subject.way.box_space,
                "crop_rule": subject.way.rule.as_dict() if subject.way.rule else "visual-cot",
                "figures": of_model,
            }
            for subject, of_model in zip(subjects, found, strict=True)
        ],
        "sources": [
            {
                "source": one.name,
                "name": one.source.name,
                "split": one.source.split,
                "rows": len(one.source),
                "fingerprint": one.fingerprint,
            }
            for one in asked
        ],
        "dropped": dict(sorted(dropped.items())),
        "judge": judge and {"id": judge.id, "digest": judge.digest},
        "config": json.loads(json.dumps({s: getattr(config, s) for s in config.__dataclass_fields__})),
        "versions": versions.library_versions(),
    }
