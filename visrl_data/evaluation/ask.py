"""Ask a model a question about a picture (`visrl ask`): the box where it looks, the crop, the answer.

Called by the command and by its page (ask_page.py). The passes are those of an evaluation (inference.py), with one
difference: where an evaluation counts a box that can't be read as wrong, the model is asked again, in one step about
the whole image, so that there is an answer to look at.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypedDict

from visrl_data.core import images
from visrl_data.core.boxes import Box
from visrl_data.core.config import GenConfig
from visrl_data.core.crops import CropRule
from visrl_data.core.drop_reasons import explain
from visrl_data.core.errors import UsageError, VisRLError
from visrl_data.core.prompts import PromptSet
from visrl_data.core.records import Question
from visrl_data.core.text import one_line
from visrl_data.engines.protocol import Role
from visrl_data.engines.refusals import REFUSAL_REASONS
from visrl_data.evaluation.config import AskConfig
from visrl_data.evaluation.eval_models import EvalModel, find_eval_models
from visrl_data.evaluation.inference import ModelOutput, PromptingMode, generate_outputs
from visrl_data.pipeline import model_pair
from visrl_data.sources.spotlight import SpotlightSource

EXAMPLE_SPLIT, EXAMPLE_ROW = "test", 6
_EXPECTED = f"at most {images.MAX_IMAGE_PIXELS:,} pixels and {images.MAX_IMAGE_BYTES:,} bytes"
_WHOLE_IMAGE = PromptingMode(1, "unit", CropRule(), PromptSet())


class AskResult(TypedDict):
    """What a model answered about one picture, as `visrl ask --json` prints it.

    box: unit xyxy of the original image; box_pixels: the same in its pixels, to a hundredth; crop: its pixels (left,
    top, right, bottom). state: "ok", or why there is no box; box_reply: the raw reply of the box step. response: the
    raw reply of the answer step, None when there is none. seen: "crop", or "whole image" where there is no box.
    """

    image: str
    model: str
    width: int
    height: int
    state: str
    box: list[float] | None
    box_pixels: list[float] | None
    crop: list[int] | None
    box_reply: str
    response: str | None
    seen: str


def find_models(models: Sequence[str], config: AskConfig) -> list[EvalModel]:
    """Find the models without loading them. Raises VisRLError."""
    options = config.eval_config()
    model_pair.check_engines(options.gen_config(""))
    return find_eval_models(models, options, PromptSet())


def load(model: EvalModel, config: AskConfig) -> Role:
    """Load a model, to be shown pictures as in its training."""
    return model_pair.load_role(dataclasses.replace(gen_config(config), max_pixels=model.max_pixels), model.model)


def gen_config(config: AskConfig) -> GenConfig:
    """Return the options as those of a generation: greedy, one box."""
    return config.eval_config().gen_config("")


def read_question(path: Path, text: str, name: str = "") -> Question:
    """Return a question about the picture in a file, decoded within the limits. name: of the picture, in messages.

    Raises VisRLError when it can't be used.
    """
    name = name or str(path)
    if path.is_dir():
        raise VisRLError(f"{name} is a folder. Expected pictures, such as {name.rstrip('/')}/*.jpg.")
    real = Path(os.path.realpath(path))  # a link is followed: the user named it
    try:
        data = images.read_under_root(real.parent, real.name)
        size = images.decode(data).size
    except images.BadImage as error:
        raise VisRLError(
            f"{name}: {explain(error.reason)} ({error.detail}). Expected a picture: {_EXPECTED}."
        ) from None
    return make_question(name, text, data, size)


def make_question(name: str, text: str, data: bytes, size: tuple[int, int]) -> Question:
    """Return a question about an encoded image of `size` (width, height). Raises UsageError when there is no text."""
    if not text.strip():
        raise UsageError('The question is empty. Expected one, such as "What is the plate number?".')
    return Question(
        id=name,
        source="ask",
        split="",
        question=text,
        answers=(),
        image=data,
        image_sha256=images.sha256(data),
        width=size[0],
        height=size[1],
    )


def draw_example(row: int = EXAMPLE_ROW) -> Question:
    """Draw a scene of Spotlight, with its question and answer."""
    question = SpotlightSource(EXAMPLE_SPLIT, row + 1).read(row)
    assert isinstance(question, Question)  # a drawn row is never a Drop
    return question


def answer_question(question: Question, role: Role, model: EvalModel, config: AskConfig) -> ModelOutput:
    """Return a model's box and response; where no box can be read, the response from the whole image."""
    options = gen_config(config)
    [output] = generate_outputs([question], role, model.mode, options)
    if output.response is not None or model.mode.steps == 1:
        return output
    [direct] = generate_outputs([question], role, _WHOLE_IMAGE, options)
    return dataclasses.replace(output, response=direct.response, finish=direct.finish)


def describe_state(output: ModelOutput) -> str:
    """Return in a sentence why there is no box, "" where there is one or none was to be."""
    if output.state == "ok":
        return ""
    how = "Answered from the whole image instead." if output.response is not None else "There is no answer."
    words = one_line(output.reply)
    reply = f" ({words})" if output.state in REFUSAL_REASONS else f" (its reply: {words!r})" if words else ""
    return f"none: {explain(output.state)}{reply}. {how}"


def as_answer(question: Question, model: EvalModel, output: ModelOutput) -> AskResult:
    """Return a model's output for programs to read."""
    return {
        "image": question.id,
        "model": model.model.id,
        "width": question.width,
        "height": question.height,
        "state": output.state,
        "box": None if output.box is None else list(output.box.xyxy),
        "box_pixels": None if output.box is None else box_pixels(output.box, question),
        "crop": None if output.crop is None else list(output.crop),
        "box_reply": output.reply,
        "response": output.response,
        "seen": "whole image" if output.crop is None else "crop",
    }


def box_pixels(box: Box, question: Question) -> list[float]:
    """Convert a box to pixels of the original image, to a hundredth."""
    sides = (question.width, question.height) * 2
    return [round(value * side, 2) for value, side in zip(box.xyxy, sides, strict=True)]


def about_model(model: EvalModel) -> dict[str, Any]:
    """Return what `visrl ask --json` prints of a model."""
    mode, folder = model.mode, model.model
    rule = mode.rule.as_dict() if mode.rule and mode.steps == 2 else None
    return {
        "model": folder.id,
        "revision": folder.revision,
        "digest": folder.digest,
        "steps": mode.steps,
        "box_space": mode.box_space if mode.steps == 2 else None,
        "crop_rule": rule,
        "max_pixels": model.max_pixels,
    }
