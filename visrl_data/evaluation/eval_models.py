"""Whom an evaluation asks: the models as named, and the ORIGINAL model in one step, without a box; and who judges.

First step of evaluate.py. Box space and crop rule are those that a model was trained with; options that say
otherwise are refused, as in generation.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from visrl_data.core.crops import CropRule
from visrl_data.core.errors import UsageError
from visrl_data.core.prompts import PromptSet, load_prompts
from visrl_data.evaluation.config import EvalConfig
from visrl_data.evaluation.inference import Way
from visrl_data.models.families import known_prompts
from visrl_data.models.served import ServedModel
from visrl_data.pipeline import model_pair
from visrl_data.pipeline.model_pair import Model


@dataclass(frozen=True, slots=True)
class Subject:
    """A model in one way of being asked: a row of the table. name: short, for people; model.id: as given."""

    name: str
    model: Model
    way: Way


def find_subjects(models: Sequence[str], config: EvalConfig, prompts: PromptSet) -> list[Subject]:
    """The models as named, each asked as it learnt to answer; then each ORIGINAL model once, in one step."""
    if not models:
        raise UsageError("No model was named. Give at least one --model.")
    if len(set(models)) < len(models):
        raise UsageError(f"--model {next(m for m in models if models.count(m) > 1)}: named twice.")
    found = [_find(model, config) for model in models]
    subjects = []
    for name, model in zip(_names(models), found, strict=True):
        space, rule = ("unit", CropRule()) if model.steps == 1 else _boxes(config, model)
        known = known_prompts(model_pair.on_disk(model), space)
        own = load_prompts(Path(config.prompts) if config.prompts else None, known)
        subjects.append(Subject(name, model, Way(model.steps, space, rule, own)))
    if config.baseline:
        named = [_find(model.origin_base or model.id, config) for model in found]
        origins = {origin.digest or origin.id: origin for origin in named}
        names = _names([origin.id for origin in origins.values()])
        for name, origin in zip(names, origins.values(), strict=True):
            subjects.append(Subject(f"{name}, no box", origin, Way(1, "unit", CropRule(), prompts)))
    return subjects


def find_judge(subjects: Sequence[Subject], config: EvalConfig) -> Model:
    """One judge for all models, so that their scores mean the same."""
    return model_pair.find_critic(config.gen_config(""), subjects[0].model)


def which(model: Model) -> dict[str, str]:
    """What tells a model's predictions from another's: digests, or the name and the address where it is served."""
    if isinstance(model, ServedModel):
        return {"id": model.id, "address": model.address}
    return {"digest": model.digest, "weights_digest": model.weights.digest}


def _find(model: str, config: EvalConfig) -> Model:
    return model_pair.find_actor(dataclasses.replace(config.gen_config(""), model=model))


def _names(models: Sequence[str]) -> list[str]:
    """Of folders their last part, where that still tells them apart."""
    short = [Path(model).resolve().name if Path(model).is_dir() else model for model in models]
    return short if len(set(short)) == len(short) else list(models)


def _boxes(config: EvalConfig, model: Model) -> tuple[str, CropRule | None]:
    """Box space and crop rule, agreed with the model's record; the Visual-CoT protocol has a crop of its own."""
    if config.protocol == "visual-cot":
        if config.crop_min_side is not None or config.crop_max_aspect is not None:
            raise UsageError("--crop-min-side and --crop-max-aspect have no meaning with --protocol visual-cot.")
        return config.box_space or model.box_space or model_pair.native_space(model), None
    return model_pair.resolve_box_settings(config.gen_config(""), model, model_pair.native_space(model))
