"""SFT: the warm-up that teaches the format (paper, Sec. 3.3 and appendix; data as in Visual-CoT).

From questions with labeled boxes, two kinds of row for each:

    focus    image, question and focus request -> the canonical text of the gold box on the model's lattice
    answer   the same, then the crop of the gold box, cut by the recorded crop rule -> the first answer

Only the reply carries loss. The turns are those of visrl_data/pipeline/actor.py, token for token.

Departures from the paper: the boxes are quantised and cropped as in generation, so that the model learns
from crops like those that it will see; several gold boxes become the one around all (--gold-target union,
as Visual-CoT has it) or the first.

    visrl train sft --source labeled.jsonl --model llava-hf/llava-1.5-7b-hf -o models/llava-sft
    visrl train sft --config llava-1.5-7b --source labeled.jsonl
    accelerate launch --num_processes 8 -m visrl_train.sft --config llava-1.5-7b --source labeled.jsonl -o DIR
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from visrl_data.core import images
from visrl_data.core.boxes import Box, CropRule, ImageTooThin, bounding_box, crop_pixels, frame, needs_seen_size
from visrl_data.core.errors import VisRLError
from visrl_data.core.prompts import load_prompts
from visrl_data.core.records import Drop, Question
from visrl_data.models.model_folder import find_model
from visrl_data.pipeline.model_pair import resolve_box_settings
from visrl_data.sources.dispatch import open_source
from visrl_data.sources.options import SourceOptions
from visrl_data.sources.protocol import Source
from visrl_train.config import SftConfig

if TYPE_CHECKING:
    from transformers import TrainerCallback

SeenSize = Callable[[Any], tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Lesson:
    """A turn and its reply. crop: pixels of the original image in an answer turn, None in a focus turn.

    image: sha256 of the original image's bytes.
    """

    id: str
    question: str
    image: str
    crop: tuple[int, int, int, int] | None
    reply: str


def train(config: SftConfig, output: Path | None = None, callbacks: Sequence[TrainerCallback] = ()) -> Path:
    """Run the stage and return the model's folder. Started again after an interruption it goes on."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    from visrl_train import models, stage
    from visrl_train.collator import LessonCollator
    from visrl_train.image_features import shares
    from visrl_train.tokenization import Turns

    prompts = load_prompts(Path(config.prompts) if config.prompts else None)
    folder = find_model(config.model or "spotlight-base", config.trust_remote_code)
    space, rule = resolve_box_settings(config, folder)  # type: ignore[arg-type]  # the same options of boxes as GenConfig
    source = open_source(config.source, config.split, config.limit, _source_options(config))
    data: dict[str, Any] = {
        "name": config.source,
        "split": config.split,
        "rows": len(source),
        "digest": source.fingerprint(),
    }
    work = stage.Stage(
        name="sft",
        config=config,
        output=output or stage.default_output("sft", config.source, config, data["digest"], folder.digest),
        folder=folder,
        data=data,
        prompts={prompt.id: prompt.template for prompt in (prompts.focus, prompts.answer)},
        box_space=space,
        crop_rule=rule,
        max_pixels=config.max_pixels,
    )
    with stage.begin(work) as finished:
        if finished:
            return work.output
        processor = stage.load_processor(work)
        model = models.load_policy(folder, config)
        turns = Turns(processor, models.token_limit(model), shares(model))
        found, where, dropped = lessons(source, space, rule, config.gold_target, config.turns, turns.seen_size)
        training, validation = stage.split(found, config.validation)
        work = stage.counted(work, train=len(training), validation=len(validation), left_out=dict(dropped))
        trainer = stage.ours(SFTTrainer)(
            model=model,
            args=SFTConfig(**stage.arguments(work, model, bool(validation)), max_length=None),
            data_collator=LessonCollator(turns, prompts, SourceImages(source, where)),
            train_dataset=Dataset.from_list(training),
            eval_dataset=Dataset.from_list(validation) if validation else None,
            processing_class=processor,
            callbacks=list(callbacks),
        )
        stage.fit(trainer, work)
        return stage.publish(trainer, work)


def _source_options(config: SftConfig) -> SourceOptions:
    return SourceOptions(images_root=config.images_root or None, columns=config.columns, gold_space=config.gold_space)


def lessons(
    source: Source, space: str, rule: CropRule, target: str, turns: str, seen_size: SeenSize
) -> tuple[list[Lesson], dict[str, int], Counter[str]]:
    """The rows to learn, the source row that holds each image, and what was left out, by reason.

    Raises VisRLError when no question has a box to learn.
    """
    found: list[Lesson] = []
    where: dict[str, int] = {}
    dropped: Counter[str] = Counter()
    for i in range(len(source)):
        row = source.read(i)
        made = row if isinstance(row, Drop) else _lessons_of(row, space, rule, target, turns, seen_size)
        if isinstance(made, Drop):
            dropped[made.reason] += 1
            continue
        where.setdefault(made[0].image, i)
        found += made
    if not found:
        reasons = ", ".join(f"{reason} {count}" for reason, count in dropped.items())
        raise VisRLError(
            f"No row of {source.name} can be learnt ({reasons}). SFT needs questions with gold boxes: "
            "a column `boxes`, or the one that --columns boxes=NAME names."
        )
    return found, where, dropped


def _lessons_of(
    question: Question, space: str, rule: CropRule, target: str, turns: str, seen_size: SeenSize
) -> list[Lesson] | Drop:
    """A question's rows, or why there are none."""
    if not question.gold_boxes:
        return Drop(question.id, question.source, "source", "no_gold_box")
    size = (question.width, question.height)
    seen = seen_size(images.decode(question.image)) if needs_seen_size(space) else None
    try:
        lattice = frame(space, size, seen)
    except ImageTooThin:
        return Drop(question.id, question.source, "source", "image_too_thin")
    cells = lattice.to_cells(gold_box(question.gold_boxes, target))
    crop = crop_pixels(lattice.to_unit(cells), size, rule)
    both = {
        "focus": Lesson(f"{question.id} (focus)", question.question, question.image_sha256, None, lattice.text(cells)),
        "answer": Lesson(
            f"{question.id} (answer)", question.question, question.image_sha256, crop, question.answers[0]
        ),
    }
    return [lesson for kind, lesson in both.items() if turns in ("both", kind)]


def gold_box(boxes: Sequence[Box], target: str) -> Box:
    """The box to learn of several: the one around all ("union"), or the "first"."""
    return boxes[0] if target == "first" else bounding_box(boxes)


@dataclass(frozen=True, slots=True)
class SourceImages:
    """Reads an image's bytes by sha256, from the source row that holds it."""

    source: Source
    where: dict[str, int]

    def __call__(self, sha: str) -> bytes:
        row = self.source.read(self.where[sha])
        if isinstance(row, Drop) or hashlib.sha256(row.image).hexdigest() != sha:
            raise VisRLError(f"The image of {row.id} in {self.source.name} changed during training. Start again.")
        return row.image


if __name__ == "__main__":
    from visrl_train.launch import main

    main("sft")
