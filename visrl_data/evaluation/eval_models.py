"""Find the models of an evaluation: those named, the ORIGINAL model in one step without a box, and the judge.

First step of evaluate.py. Box space, crop rule and the bound of pictures are those that a model was trained with;
options that differ are refused, as in generation.
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
from visrl_data.evaluation.inference import PromptingMode
from visrl_data.models.families import known_prompts
from visrl_data.pipeline import model_pair
from visrl_data.pipeline.model_pair import Model


@dataclass(frozen=True, slots=True)
class EvalModel:
    """A model in one prompting mode: a row of the table.

    name: short, for people; model.id: as the user wrote it. max_pixels: the bound of its pictures.
    """

    name: str
    model: Model
    mode: PromptingMode
    max_pixels: int | None


def find_eval_models(models: Sequence[str], config: EvalConfig, prompts: PromptSet) -> list[EvalModel]:
    """Return the models as named, each in its own mode; then each ORIGINAL model once, in one step.

    An original model is shown pictures as the first model that was trained from it.
    """
    if not models:
        raise UsageError("No model given. Give at least one --model.")
    if len(set(models)) < len(models):
        raise UsageError(f"--model {next(m for m in models if models.count(m) > 1)}: given twice.")
    actors = [_find(model, config) for model in models]
    eval_models = []
    for name, model in zip(_short_names(models), actors, strict=True):
        space, rule = ("unit", CropRule()) if model.steps == 1 else _boxes(config, model)
        presets = known_prompts(model_pair.on_disk(model), space)
        own = load_prompts(Path(config.prompts) if config.prompts else None, presets)
        bound = model_pair.resolve_max_pixels(config.gen_config(""), model, "" if model.steps == 1 else space)
        eval_models.append(EvalModel(name, model, PromptingMode(model.steps, space, rule, own), bound))
    if config.baseline:
        bases = [_find(model_pair.served_origin(m) or m.origin_base or m.id, config) for m in actors]
        origins = {origin.digest or origin.id: origin for origin in bases}
        bounds = {b.digest or b.id: m.max_pixels for b, m in reversed([*zip(bases, eval_models, strict=True)])}
        names = _short_names([origin.id for origin in origins.values()])
        for name, (key, origin) in zip(names, origins.items(), strict=True):
            mode = PromptingMode(1, "unit", CropRule(), prompts)
            eval_models.append(EvalModel(f"{name}, no box", origin, mode, bounds[key]))
    return eval_models


def _find(model: str, config: EvalConfig) -> Model:
    return model_pair.find_actor(dataclasses.replace(config.gen_config(""), model=model))


def _short_names(models: Sequence[str]) -> list[str]:
    """Return the last part of folders' paths, unless two would have the same name."""
    short = [Path(model).resolve().name if Path(model).is_dir() else model for model in models]
    return short if len(set(short)) == len(short) else list(models)


def _boxes(config: EvalConfig, model: Model) -> tuple[str, CropRule | None]:
    """Return box space and crop rule as the model's record has them; the Visual-CoT protocol has a crop of its own."""
    if config.protocol == "visual-cot":
        if config.crop_min_side is not None or config.crop_max_aspect is not None:
            raise UsageError("--crop-min-side and --crop-max-aspect do not apply to --protocol visual-cot.")
        return config.box_space or model.box_space or model_pair.native_space(model), None
    default = config.box_space or model.box_space or model_pair.native_space(model)
    return model_pair.resolve_box_settings(config.gen_config(""), model, default)
