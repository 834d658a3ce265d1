"""Whom an evaluation asks: the models as named, and the ORIGINAL model in one step, without a box.

First step of evaluate.py. Box space and crop rule are those that a model was trained with; options that say
otherwise are refused, as in generation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from visrl_data import factory
from visrl_data.boxes import CropRule
from visrl_data.errors import UsageError
from visrl_data.evaluation.asking import Way
from visrl_data.evaluation.config import EvalConfig
from visrl_data.models import ModelFolder, find_model
from visrl_data.prompts import PromptSet


@dataclass(frozen=True, slots=True)
class Subject:
    """A model in one way of being asked: a row of the table. name: short, for people; folder.id: as given."""

    name: str
    folder: ModelFolder
    way: Way


def find_subjects(models: Sequence[str], config: EvalConfig, prompts: PromptSet) -> list[Subject]:
    """The models as named, each asked as it learnt to answer; then each ORIGINAL model once, in one step."""
    if not models:
        raise UsageError("No model was named. Give at least one --model.")
    if len(set(models)) < len(models):
        raise UsageError(f"--model {next(m for m in models if models.count(m) > 1)}: named twice.")
    folders = [find_model(model, config.trust_remote_code) for model in models]
    subjects = []
    for name, folder in zip(_names(models), folders, strict=True):
        space, rule = ("unit", CropRule()) if folder.steps == 1 else _boxes(config, folder)
        subjects.append(Subject(name, folder, Way(folder.steps, space, rule, prompts)))
    if config.baseline:
        origins = {
            f.digest: f for f in (find_model(folder.origin_base, config.trust_remote_code) for folder in folders)
        }
        names = _names([f.id for f in origins.values()])
        for name, folder in zip(names, origins.values(), strict=True):
            subjects.append(Subject(f"{name}, no box", folder, Way(1, "unit", CropRule(), prompts)))
    return subjects


def _names(models: Sequence[str]) -> list[str]:
    """Of folders their last part, where that still tells them apart."""
    short = [Path(model).resolve().name if Path(model).is_dir() else model for model in models]
    return short if len(set(short)) == len(short) else list(models)


def _boxes(config: EvalConfig, folder: ModelFolder) -> tuple[str, CropRule | None]:
    """Box space and crop rule, agreed with the model's record; the Visual-CoT protocol has a crop of its own."""
    if config.protocol == "visual-cot":
        if config.crop_min_side is not None or config.crop_max_aspect is not None:
            raise UsageError("--crop-min-side and --crop-max-aspect have no meaning with --protocol visual-cot.")
        return config.box_space or folder.box_space or "unit", None
    return factory.agreement(config.gen_config(""), folder)
