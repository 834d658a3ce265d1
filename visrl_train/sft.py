"""SFT: the warm-up that teaches the format (paper, Sec. 3.2 and appendix; data as in Visual-CoT).

Two examples from each question with labeled boxes:

    focus    image, question and focus request -> the canonical text of the gold box on the model's lattice
    answer   the same, then the crop of the gold box, cut by the recorded crop rule -> the first answer

The loss covers the reply only. The turns are those of visrl_data/pipeline/actor.py, token for token.

Departures from the paper: the boxes are quantized and cropped as in generation, so that the model learns
from crops like those that it will see; several gold boxes become the one around all (--gold-target union,
as in Visual-CoT) or the first.

    visrl train sft --source labeled.jsonl --model llava-hf/llava-1.5-7b-hf -o models/llava-sft
    visrl train sft --config llava-1.5-7b --source labeled.jsonl
    accelerate launch --num_processes 8 -m visrl_train.sft --config llava-1.5-7b --source labeled.jsonl -o DIR
"""

from __future__ import annotations

import dataclasses
import hashlib
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from visrl_data.core import images
from visrl_data.core.boxes import Box, ImageTooThin, bounding_box, make_frame, needs_resized_size
from visrl_data.core.crops import CropRule, crop_pixels
from visrl_data.core.errors import VisRLError
from visrl_data.core.metrics import standard_answers
from visrl_data.core.prompts import PromptSet, load_prompts
from visrl_data.core.records import Drop, Question
from visrl_data.core.text import one_line
from visrl_data.engines.refusals import RequestRefused
from visrl_data.models.model_folder import find_model
from visrl_data.pipeline.model_pair import resolve_box_settings
from visrl_data.sources.dispatch import open_source
from visrl_data.sources.options import SourceOptions
from visrl_data.sources.protocol import Source
from visrl_train.config import SftConfig

if TYPE_CHECKING:
    from transformers import TrainerCallback

    from visrl_train.tokenization import Turns

ResizedSize = Callable[[Any], tuple[int, int]]
# Every known processor takes a picture and a text within these bounds.
_USUAL_RATIO, _USUAL_SIDE, _USUAL_TOKENS = 10, 32, 4096


@dataclass(frozen=True, slots=True)
class SFTExample:
    """A turn and its reply. crop: pixels of the original image in an answer turn, None in a focus turn.

    image: sha256 of the original image's bytes.
    """

    id: str
    question: str
    image: str
    crop: tuple[int, int, int, int] | None
    reply: str


Check = Callable[[Question, Sequence[SFTExample]], None]


def train(config: SftConfig, output: Path | None = None, callbacks: Sequence[TrainerCallback] = ()) -> Path:
    """Run the stage and return the model's folder. An interrupted stage resumes."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    from visrl_train import models, stage_folder, trainers
    from visrl_train.collator import SFTCollator
    from visrl_train.image_features import shares
    from visrl_train.image_settings import choose_own_images
    from visrl_train.tokenization import Turns

    prompts = load_prompts(Path(config.prompts) if config.prompts else None)
    folder = find_model(config.model or "spotlight-base", config.trust_remote_code)
    space, rule = resolve_box_settings(config, folder)  # type: ignore[arg-type]  # the same options of boxes as GenConfig
    source = open_source(config.source, config.split, config.limit, _source_options(config))
    digest = source.fingerprint()
    data = {"name": config.source, "split": config.split, "rows": len(source), "digest": digest}
    stage = stage_folder.TrainingStage(
        name="sft",
        config=config,
        output=output or stage_folder.default_output("sft", config.source, config, digest, folder.digest),
        folder=folder,
        data=data,
        prompts={prompt.id: prompt.template for prompt in (prompts.focus, prompts.answer)},
        box_space=space,
        crop_rule=rule,
        image_settings=choose_own_images(config, folder),
    )
    with stage_folder.open_stage(stage) as is_finished:
        if is_finished:
            return stage.output
        processor = stage_folder.load_processor(stage)
        model = models.load_policy(folder, config)
        turns = Turns(processor, models.token_limit(model), shares(model))
        examples, row_of, drops = make_examples(
            source, space, rule, config.gold_target, config.turns, turns.resized_size, SFTCheck(turns, prompts)
        )
        training, validation = stage_folder.split(examples, config.validation)
        stage = stage_folder.with_rows(stage, training, validation, left_out=dict(drops))
        arguments = trainers.training_arguments(stage, model, bool(validation))
        trainer = trainers.make_trainer_class(SFTTrainer)(
            model=model,
            # Without TRL's loss that balances experts: RL1 and RL2 have none, and it asks for what Llama 4 lacks.
            args=SFTConfig(**arguments, max_length=None, router_aux_loss_coef=0.0),
            data_collator=SFTCollator(turns, prompts, SourceImages(source, row_of)),
            train_dataset=Dataset.from_list(training),
            eval_dataset=Dataset.from_list(validation) if validation else None,
            processing_class=processor,
            callbacks=list(callbacks),
        )
        trainers.fit(trainer, stage)
        return stage_folder.save_model(trainer, stage)


def _source_options(config: SftConfig) -> SourceOptions:
    return SourceOptions(
        images_root=config.images_root or None,
        columns=config.columns,
        gold_space=config.gold_space,
        gold_format=config.gold_format or "xyxy",
    )


def make_examples(
    source: Source,
    space: str,
    rule: CropRule,
    target: str,
    turns: str,
    resized_size: ResizedSize,
    check: Check = lambda question, examples: None,
) -> tuple[list[SFTExample], dict[str, int], Counter[str]]:
    """Return the examples, the source row that holds each image, and the counts of dropped rows by reason.

    check: raises RequestRefused when the model does not take the examples of a question, which is a drop. Prints an
    example for each reason. Raises VisRLError when no question has a usable gold box.
    """
    examples: list[SFTExample] = []
    row_of: dict[str, int] = {}
    drops: Counter[str] = Counter()
    for i in range(len(source)):
        row = source.read(i)
        result = row if isinstance(row, Drop) else _try_examples(row, space, rule, target, turns, resized_size, check)
        if isinstance(result, Drop):
            drops[result.reason] += 1
            if drops[result.reason] == 1:
                print(f"Dropped, {result.reason}: {one_line(f'{result.id} {result.detail}')}", file=sys.stderr)
            continue
        row_of.setdefault(result[0].image, i)
        examples += result
    if not examples:
        reasons = ", ".join(f"{reason} {count}" for reason, count in drops.items())
        advice = (
            "Boxes in pixels need --gold-space pixels, those of x, y, width and height --gold-format xywh."
            if drops["bad_box"]
            else "SFT needs questions with gold boxes: a column `boxes`, or the one that --columns boxes=NAME names."
        )
        raise VisRLError(f"No row of {source.name} can be used for SFT ({reasons}). {advice}")
    return examples, row_of, drops


def _try_examples(question: Question, *options: Any) -> list[SFTExample] | Drop:
    *how, check = options
    try:
        result = _examples_of(question, *how)
        if isinstance(result, list):
            check(question, result)
    except RequestRefused as refusal:
        return Drop(question.id, question.source, "source", refusal.reason, str(refusal))
    return result


def _examples_of(
    question: Question, space: str, rule: CropRule, target: str, turns: str, resized_size: ResizedSize
) -> list[SFTExample] | Drop:
    if not question.gold_boxes:
        reason = question.label_problems[0].reason if question.label_problems else "no_gold_box"
        return Drop(question.id, question.source, "source", reason)
    size = (question.width, question.height)
    seen = resized_size(images.decode(question.image)) if needs_resized_size(space) else None
    try:
        lattice = make_frame(space, size, seen)
    except ImageTooThin:
        return Drop(question.id, question.source, "source", "image_too_thin")
    cells = lattice.to_cells(gold_box(question.gold_boxes, target))
    crop = crop_pixels(lattice.to_unit(cells), size, rule)
    text, sha = question.question, question.image_sha256
    both = {
        "focus": SFTExample(f"{question.id} (focus)", text, sha, None, lattice.text(cells)),
        "answer": SFTExample(f"{question.id} (answer)", text, sha, crop, standard_answers(question.answers)[0]),
    }
    return [example for kind, example in both.items() if turns in ("both", kind)]


@dataclass(frozen=True, slots=True)
class SFTCheck:
    """Raises RequestRefused when a model does not take one of the examples of a question.

    Encodes only those with an unusual picture or text: encoding all would take as long as an epoch's encoding.
    """

    turns: Turns
    prompts: PromptSet

    def __call__(self, question: Question, examples: Sequence[SFTExample]) -> None:
        from visrl_train.collator import SFTCollator

        collator = SFTCollator(self.turns, self.prompts, lambda sha: question.image)
        for example in examples:
            if self._is_unusual(question, example):
                collator([dataclasses.asdict(example)])

    def _is_unusual(self, question: Question, example: SFTExample) -> bool:
        left, top, right, bottom = example.crop or (0, 0, question.width, question.height)
        sizes = ((question.width, question.height), (right - left, bottom - top))
        characters = len(example.question) + len(example.reply)
        return (
            any(min(size) < _USUAL_SIDE or max(size) > _USUAL_RATIO * min(size) for size in sizes)
            or characters > (self.turns.max_tokens or _USUAL_TOKENS) // 4
        )


def gold_box(boxes: Sequence[Box], target: str) -> Box:
    """Return the target box of several gold boxes: the one around all ("union"), or the "first"."""
    return boxes[0] if target == "first" else bounding_box(boxes)


@dataclass(frozen=True, slots=True)
class SourceImages:
    """Reads an image's bytes by sha256, from the source row that holds it."""

    source: Source
    row_of: dict[str, int]

    def __call__(self, sha: str) -> bytes:
        row = self.source.read(self.row_of[sha])
        if isinstance(row, Drop) or hashlib.sha256(row.image).hexdigest() != sha:
            raise VisRLError(
                f"The image of {row.id} in {self.source.name} changed during training. Use another --output."
            )
        return row.image


if __name__ == "__main__":
    from visrl_train.launch import main

    main("sft")
