"""The table of training stages: the one place that lists them.

The commands `visrl train STAGE`, the recipe that each one runs, the text of its model card, and the memory that it is
estimated to take are all read from here. To add a stage, write its recipe, a class of options in config.py, and an
entry below.
"""

from __future__ import annotations

from dataclasses import dataclass

from visrl_train.config import (
    DpoAnswersConfig,
    KtoAnswersConfig,
    Rl1Config,
    Rl2Config,
    RlooAnswersConfig,
    SftAnswersConfig,
    SftConfig,
    TrainConfig,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class StageSpec:
    """What the rest of the package needs to know of a stage.

    recipe: the module of visrl_train with its train(config, output). summary, examples: the help of its command.
    card: the first sentence of a model card. model_calls: how often the trained model is called to answer a question,
    2 with a focus box, 1 without. next_command: what to run afterwards, of {model} and {data}, the options that name
    the pairs. rows: rows in a batch for each unit of --batch-size; None where memory is not estimated.
    """

    config: type[TrainConfig]
    recipe: str
    summary: str
    examples: tuple[str, ...]
    card: str
    model_calls: int = 2
    next_command: str | None = None
    rows: int | None = None


STAGES: dict[str, StageSpec] = {
    "sft": StageSpec(
        config=SftConfig,
        recipe="sft",
        summary="Teach a model to answer the focus request with a box, from questions with labeled boxes.",
        examples=(
            "visrl train sft --source labeled.jsonl --model llava-hf/llava-1.5-7b-hf",
            "visrl train sft --config llava-1.5-7b --source labeled.jsonl -o models/llava-sft",
            "visrl train sft --config llava-1.5-7b --mix paper:metadata/ --images-root cot_images.tar",
        ),
        card="Warm-up on questions with labeled boxes: the format of boxes, and answers from crops (VisRL, Sec. 3.2).",
        next_command="visrl gen --model {model}",
        rows=1,
    ),
    "rl1": StageSpec(
        config=Rl1Config,
        recipe="rl1",
        summary="Train the focus box on preference pairs. Default: the latest run, and the actor that made it.",
        examples=(
            "visrl train rl1",
            "visrl train rl1 --data runs/cars -o models/cars-rl1",
            "visrl train rl1 --data runs/cars --data runs/boats",
        ),
        card="DPO on focus boxes, without box labels (VisRL, Eq. 5-6).",
        next_command="visrl train rl2 {data} --model {model}",
        rows=2,
    ),
    "rl2": StageSpec(
        config=Rl2Config,
        recipe="rl2",
        summary="Train box and response together. Default: the latest run, and the rl1 model trained on it.",
        examples=(
            "visrl train rl2",
            "visrl train rl2 --data runs/cars --model models/cars-rl1 -o models/cars-rl2",
            "visrl train rl2 --without-rl1",
        ),
        card="DPO on focus boxes and on responses together, without box labels (VisRL, Eq. 7-8).",
        next_command="visrl eval --model {model}; or the next round: visrl gen --model {model} --round 1",
        rows=4,
    ),
    "sft-answers": StageSpec(
        config=SftAnswersConfig,
        recipe="answer_baselines",
        summary="Answer-only SFT on the win (chosen) responses, from image and question alone; no crop, no box.",
        examples=("visrl train sft-answers", "visrl train sft-answers --data runs/cars -o models/cars-sft-answers"),
        card="An answer-only baseline: SFT on the win (chosen) responses; no box, no crop (VisRL, Tab. 5).",
        model_calls=1,
    ),
    "dpo-answers": StageSpec(
        config=DpoAnswersConfig,
        recipe="answer_baselines",
        summary="Answer-only DPO: win (chosen) against lose (rejected) response; no crop, no box.",
        examples=("visrl train dpo-answers", "visrl train dpo-answers --data runs/cars -o models/cars-dpo-answers"),
        card="An answer-only baseline: DPO on the pairs' responses; no box, no crop (VisRL, Tab. 5).",
        model_calls=1,
    ),
    "kto-answers": StageSpec(
        config=KtoAnswersConfig,
        recipe="answer_baselines",
        summary="Answer-only KTO: each response on its own, desirable or not; no crop, no box.",
        examples=("visrl train kto-answers", "visrl train kto-answers --data runs/cars -o models/cars-kto-answers"),
        card="An answer-only baseline: KTO on the pairs' responses; no box, no crop (VisRL, Tab. 5).",
        model_calls=1,
    ),
    "rloo-answers": StageSpec(
        config=RlooAnswersConfig,
        recipe="rloo",
        summary="Answer-only online RL: the model samples replies, a reward model trained on half of the pairs scores "
        "them.",
        examples=(
            "visrl train rloo-answers",
            "visrl train rloo-answers --reward normalized -o models/cars-rloo",
        ),
        card="An answer-only baseline: RLOO on its own replies; no box, no crop (after VisRL, Tab. 5).",
        model_calls=1,
    ),
}
