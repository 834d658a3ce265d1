"""Evaluate models on labeled questions (`visrl eval`). Start reading here.

    find       each model, and the ORIGINAL models under them: baseline and judge   eval_models.py
    predict    focus box, crop, answer; the baseline in one step, without a box     inference.py
    judge      only where the score is "critic": the original model reads the responses
    store      predictions, chunk by chunk                                          predictions.py
    score      answer score, box accuracy, format validity, paired intervals        scores.py
    report     report.json, and report.html with predictions side by side           page.py

Decoding is greedy. A run that was killed resumes; a model that is added to the same folder costs its own
calls only.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from visrl_data.core import files, versions
from visrl_data.core.config import GenConfig, to_toml
from visrl_data.core.errors import VisRLError
from visrl_data.core.prompts import PromptSet, load_prompts
from visrl_data.core.records import Drop, Question, Score
from visrl_data.engines import reply_cache
from visrl_data.engines.protocol import EngineLost, Role
from visrl_data.engines.refusals import isolate_refused
from visrl_data.engines.vllm_options import options_of_replies
from visrl_data.evaluation import inference, page
from visrl_data.evaluation.config import EvalConfig
from visrl_data.evaluation.eval_models import EvalModel, find_eval_models
from visrl_data.evaluation.eval_report import EvalReport, GroupFigures, ModelEntry
from visrl_data.evaluation.eval_sources import OTHERS, EvalSource, open_eval_sources, scores_and_drops
from visrl_data.evaluation.inference import ModelOutput, PromptingMode
from visrl_data.evaluation.predictions import (
    Prediction,
    PredictionCache,
    check_output,
    open_cache,
    read_predictions,
    write_chunk,
)
from visrl_data.evaluation.scores import ScoreSettings, score_models
from visrl_data.models.model_folder import ModelFolder
from visrl_data.pipeline import critics, model_pair
from visrl_data.pipeline.actor import image_groups
from visrl_data.pipeline.critics import ScoreInput
from visrl_data.pipeline.model_pair import Model

_RESUME = "so are the replies received since. When it answers again, run the same command to resume."


@dataclass(frozen=True, slots=True)
class EvalProgress:
    """Reported after each chunk, and once for the chunks that were done before. done, total: rows of all models."""

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
    on_chunk: Callable[[EvalProgress], None] = lambda _: None,
) -> EvalReport:
    """Ask every model every question, score the replies, write report.json and report.html; return the report.

    scores: group -> one of SCORES, with OTHERS as the key for the rest. Raises VisRLError for anything that the user
    can fix; the predictions made until then stay.
    """
    prompts = load_prompts(Path(config.prompts) if config.prompts else None)
    model_pair.check_engines(config.gen_config(""))
    eval_sources = open_eval_sources(sources, config, dict(scores or {}))
    eval_models = find_eval_models(models, config, prompts)
    judge = None  # one for all models, so that their scores mean the same
    if any(source.is_judged for source in eval_sources):
        judge = model_pair.find_critic(config.gen_config(""), eval_models[0].model)
    files.make_folder(output)
    with files.lock_folder(output, lambda: check_output(output)):
        caches = {
            (i, j): _open_cache(output, model, source, judge, config)
            for i, model in enumerate(eval_models)
            for j, source in enumerate(eval_sources)
        }
        files.write_text(output / "config.toml", to_toml(config))
        _fill(output, eval_models, eval_sources, caches, judge, prompts, on_chunk)
        predictions = [
            [p for j in range(len(sources)) for p in read_predictions(caches[i, j])] for i in range(len(eval_models))
        ]
        report = _build_report(eval_models, eval_sources, predictions, judge, config)
        files.write_json(output / "report.json", report)
        page.write_page(output, report, predictions, [source.source for source in eval_sources])
    return report


def default_output(sources: Sequence[str], config: EvalConfig) -> Path:
    """Return evals/<sources>-<split>-<digest of the options>: the same for every model, so that all share a folder.

    Raises UsageError for a source whose name can stand in no record.
    """
    for source in sources:
        config.gen_config(source)
    digest = hashlib.sha256("\0".join((to_toml(config), *sources)).encode()).hexdigest()[:8]
    names = "-".join(Path(source.removeprefix("visual-cot:")).stem or "source" for source in sources[:3])
    return files.default_folder(Path("evals"), names, config.split, digest)


def _open_cache(
    output: Path, model: EvalModel, source: EvalSource, judge: Model | None, config: EvalConfig
) -> PredictionCache:
    """Open the folder of the predictions; its name is the digest of all that they depend on."""
    from visrl_data.engines import loading

    mode = model.mode
    about = {
        "model": model_pair.model_fingerprint(model.model),
        "source": {"name": source.source.name, "split": source.source.split, "fingerprint": source.fingerprint},
        "read": {name: getattr(config, name) for name in ("images_root", "columns", "gold_space")}
        | ({"allow_urls": config.allow_urls} if config.allow_urls else {})
        | ({"gold_format": config.gold_format} if config.gold_format else {}),
        "protocol": config.protocol,
        "steps": mode.steps,
        "box_space": mode.box_space,
        "crop_rule": mode.rule.as_dict() if mode.rule else "visual-cot",
        "prompts": mode.templates,
        "max_new_tokens": config.max_new_tokens,
        "max_pixels": model.max_pixels,
        "engine": config.engine,
        "device": loading.best_device() if config.device == "auto" else config.device,
        "dtype": config.dtype,
        "versions": versions.library_versions(),
    }
    if config.vllm_options:
        about["vllm_options"] = options_of_replies(config.vllm_options)
    if source.is_judged and judge is not None:
        judge_id = {"digest": judge.digest} if isinstance(judge, ModelFolder) else model_pair.model_fingerprint(judge)
        scores = {OTHERS: source.score_of(OTHERS)} | source.scores
        about["judge"] = {**judge_id, "prompt": mode.prompts.response_critic.id, "scores": scores}
    return open_cache(output, about, len(source.source), config.chunk_size)


def _fill(
    output: Path,
    eval_models: Sequence[EvalModel],
    eval_sources: Sequence[EvalSource],
    caches: Mapping[tuple[int, int], PredictionCache],
    judge: Model | None,
    prompts: PromptSet,
    on_chunk: Callable[[EvalProgress], None],
) -> None:
    """Predict the chunks that are missing. A model is loaded once, and only when it has a chunk to do."""
    total = sum(cache.rows for cache in caches.values())
    missing = {key: cache.missing() for key, cache in caches.items()}
    done = total - sum(_rows(caches[key], index) for key, indices in missing.items() for index in indices)
    if done:
        on_chunk(EvalProgress(eval_models[0].name, done, total, True))
    for i, model in enumerate(eval_models):
        roles: tuple[Role, Role | None] | None = None
        for j, source in enumerate(eval_sources):
            for index in missing[i, j]:
                roles = roles or _load(source.config, model, judge)
                journal = reply_cache.attach([role.engine for role in roles if role], output / reply_cache.NAME)
                cache = caches[i, j]
                try:
                    predictions = _predict_chunk(model.mode, source, roles, prompts, cache, index)
                except EngineLost as error:
                    raise VisRLError(f"{error}\n{done} of {total} predictions are saved; {_RESUME}") from error
                write_chunk(cache, index, predictions)
                journal.clear()
                done += _rows(cache, index)
                on_chunk(EvalProgress(model.name, done, total, False))


def _rows(cache: PredictionCache, index: int) -> int:
    return min(cache.size, cache.rows - index * cache.size)


def _load(config: GenConfig, model: EvalModel, judge: Model | None) -> tuple[Role, Role | None]:
    config = dataclasses.replace(config, max_pixels=model.max_pixels)
    if judge is not None:
        return model_pair.load_roles(config, model.model, judge)
    return model_pair.load_role(config, model.model), None


def _predict_chunk(
    mode: PromptingMode,
    source: EvalSource,
    roles: tuple[Role, Role | None],
    prompts: PromptSet,
    cache: PredictionCache,
    index: int,
) -> list[Prediction]:
    """Return the predictions of a chunk's rows, in order."""
    first = index * cache.size
    rows = {i: source.source.read(i) for i in range(first, first + _rows(cache, index))}
    questions = {i: row for i, row in rows.items() if isinstance(row, Question)}
    actor, critic = roles
    replies = inference.generate_outputs([*questions.values()], actor, mode, source.config)
    outputs = dict(zip(questions, replies, strict=True))
    responses = {
        i: response
        for i, question in questions.items()
        if source.score_of(question.source) == "critic" and (response := outputs[i].response) is not None
    }
    verdicts = {}
    if responses and critic is not None:
        judge = critics.response_critic(source.config, critic, prompts)
        left = iter(responses.values())
        scores = [
            score
            for group in image_groups([questions[i] for i in responses])
            for score in isolate_refused(
                [ScoreInput(inference.whole_image_box(question), next(left)) for question in group], judge.score
            )
        ]
        verdicts = {i: critics.as_score(score) for i, score in zip(responses, scores, strict=True)}
    return [_prediction(i, row, outputs.get(i), verdicts.get(i, critics.OFF)) for i, row in rows.items()]


def _prediction(row: int, question: Question | Drop, output: ModelOutput | None, verdict: Score) -> Prediction:
    if isinstance(question, Drop) or output is None:
        return Prediction(row, question.id, question.source, getattr(question, "reason", ""))
    return Prediction(
        row=row,
        id=question.id,
        group=question.source,
        question=question.question,
        answers=question.answers,
        image_sha256=question.image_sha256,
        width=question.width,
        height=question.height,
        gold_boxes=tuple(box.xyxy for box in question.gold_boxes),
        focus_state=output.state,
        focus_reply=output.reply,
        box=output.box.xyxy if output.box else None,
        box_text=output.text,
        crop=output.crop,
        response=output.response,
        finish=output.finish,
        verdict=verdict.value,
        verdict_state=verdict.state,
        verdict_raw=verdict.raw,
    )


def _build_report(
    eval_models: Sequence[EvalModel],
    eval_sources: Sequence[EvalSource],
    predictions: Sequence[Sequence[Prediction]],
    judge: Model | None,
    config: EvalConfig,
) -> EvalReport:
    scores, dropped = scores_and_drops(eval_sources, predictions[0])
    settings = ScoreSettings(scores, config.gold_rule, config.resamples, config.seed)
    figures = score_models(predictions, [model.mode.steps for model in eval_models], settings)
    return {
        "groups": sorted(scores),
        "models": [_model_entry(*entry) for entry in zip(eval_models, figures, strict=True)],
        "sources": [
            {
                "source": source.name,
                "name": source.source.name,
                "split": source.source.split,
                "rows": len(source.source),
                "fingerprint": source.fingerprint,
            }
            for source in eval_sources
        ],
        "dropped": dict(sorted(dropped.items())),
        "judge": {"id": judge.id, "digest": judge.digest} if judge else None,
        "config": json.loads(json.dumps({name: getattr(config, name) for name in config.__dataclass_fields__})),
        "versions": versions.library_versions(),
    }


def _model_entry(model: EvalModel, figures: dict[str, GroupFigures]) -> ModelEntry:
    return {
        "name": model.name,
        "model": model.model.id,
        "revision": model.model.revision,
        "digest": model.model.digest,
        "steps": model.mode.steps,
        "box_space": model.mode.box_space,
        "crop_rule": model.mode.rule.as_dict() if model.mode.rule else "visual-cot",
        "max_pixels": model.max_pixels,
        "figures": figures,
    }
