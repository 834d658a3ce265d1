"""Answer-only baselines of the paper's Table 5: SFT, DPO and KTO on the responses of the same pairs.

They leave out what VisRL is about: the model sees image and question and answers at once, with no crop and no
box. Their gain is what better answers alone are worth.

    sft-answers   SFT on the win (chosen) response
    dpo-answers   DPO: the win (chosen) response against the lose (rejected) response
    kto-answers   KTO: each response on its own, desirable (win) or not (lose)

Pairs whose two responses are the same text train SFT only. rloo.py is the baseline that samples its own replies.

Our choices, where the paper says nothing: the prompt, which is the one that `visrl eval` uses for a model without a
box; the start, which is the ORIGINAL model; the hyper-parameters, which are those of sft for SFT and of rl1 for
the others.

    visrl train sft-answers
    visrl train dpo-answers --data runs/cars -o models/cars-dpo-answers
    accelerate launch --num_processes 8 -m visrl_cli train kto-answers --data runs/cars -o models/cars-kto-answers
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import Trainer, TrainerCallback
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer, SFTConfig, SFTTrainer

from visrl_data.core.errors import VisRLError
from visrl_data.core.prompts import DIRECT, Prompt
from visrl_data.models.model_folder import ModelFolder, find_model
from visrl_train import models, stage_folder, trainers
from visrl_train.collator import ImageCache, ReadImage, with_labels
from visrl_train.config import AnswersConfig, DpoAnswersConfig, KtoAnswersConfig, SftAnswersConfig
from visrl_train.image_features import shares
from visrl_train.pairs import Pair, PairSet, read_pairs
from visrl_train.rl1 import prepare
from visrl_train.stage_folder import TrainingStage
from visrl_train.tokenization import Turn, Turns
from visrl_train.trainers import make_trainer_class

DIRECT_PROMPT = Prompt("direct", DIRECT)


@dataclass(frozen=True, slots=True)
class Answer:
    """A response of a pair. label: True for that of the win (chosen)."""

    id: str
    question: str
    image: str
    reply: str
    label: bool


def train(config: AnswersConfig, output: Path | None = None, callbacks: Sequence[TrainerCallback] = ()) -> Path:
    """Run a baseline and return the model's folder. An interrupted baseline resumes."""
    recipes: dict[type[AnswersConfig], tuple[str, Callable[[PairSet], Sequence[Any]], Callable[..., Trainer]]] = {
        SftAnswersConfig: ("sft-answers", chosen_answers, sft),
        DpoAnswersConfig: ("dpo-answers", pairs_with_responses, dpo),
        KtoAnswersConfig: ("kto-answers", all_answers, kto),
    }
    name, rows_of, make_trainer = recipes[type(config)]
    pairs = read_pairs(config.data)
    stage = prepare_from_original(name, config, pairs, output)
    with stage_folder.open_stage(stage) as is_finished:
        if is_finished:
            return stage.output
        model, processor = models.load_policy(stage.folder, config), stage_folder.load_processor(stage)
        encode = AnswerEncoder(Turns(processor, models.token_limit(model), shares(model)), pairs.read_image)
        training, validation = stage_folder.split(rows_of(pairs), config.validation)
        stage = stage_folder.with_rows(stage, training, validation)
        arguments = trainers.training_arguments(stage, model, bool(validation))
        if isinstance(config, DpoAnswersConfig):
            arguments["beta"] = config.beta
        trainer = make_trainer(
            stage,
            encode,
            arguments,
            model=model,
            train_dataset=Dataset.from_list(training),
            eval_dataset=Dataset.from_list(validation) if validation else None,
            processing_class=processor,
            callbacks=list(callbacks),
        )
        trainers.fit(trainer, stage)
        return stage_folder.save_model(trainer, stage)


def prepare_from_original(name: str, config: AnswersConfig, pairs: PairSet, output: Path | None) -> TrainingStage:
    """Return the stage; without --model it starts from the original model of the actor that made the pairs."""
    trust = config.trust_remote_code
    folder = find_original(pairs, trust) if config.model is None else find_model(config.model, trust)
    return prepare(name, config, pairs, folder, output, prompts=(DIRECT_PROMPT,))


def find_original(pairs: PairSet, trust_remote_code: bool = False) -> ModelFolder:
    """Find the original model of the pairs. Raises VisRLError when they don't name it."""
    if pairs.origin is None:
        raise VisRLError(f"{pairs.name} names no original model. Name the one to train with --model.")
    return find_model(pairs.origin, trust_remote_code)


def chosen_answers(pairs: PairSet) -> list[Answer]:
    """Return the chosen response of each pair."""
    return [_answer(pair, "win") for pair in pairs.pairs]


def pairs_with_responses(pairs: PairSet) -> list[Pair]:
    """Return the pairs with two different responses. Raises VisRLError when there is none."""
    different = [pair for pair in pairs.pairs if pair.has_response]
    if not different:
        raise VisRLError(f"All pairs of {pairs.name} have two equal responses, so no answer is preferred.")
    return different


def all_answers(pairs: PairSet) -> list[Answer]:
    """Return both responses of each pair."""
    return [_answer(pair, side) for pair in pairs_with_responses(pairs) for side in ("win", "lose")]


def _answer(pair: Pair, side: str) -> Answer:
    return Answer(f"{pair.id} ({side})", pair.question, pair.image, getattr(pair, f"{side}_response"), side == "win")


@dataclass(frozen=True, slots=True)
class AnswerEncoder:
    """Encodes rows and their replies as a batch of answer turns without a crop."""

    turns: Turns
    read_image: ReadImage

    def __call__(self, rows: Sequence[Mapping[str, Any]], replies: Sequence[str]) -> dict[str, torch.Tensor]:
        cache = ImageCache(self.read_image)
        return self.turns.encode(
            [
                Turn(row["id"], DIRECT_PROMPT.parts(question=row["question"]), (cache.get(row["image"]),), reply)
                for row, reply in zip(rows, replies, strict=True)
            ]
        )


def sft(stage: TrainingStage, encode: AnswerEncoder, arguments: dict[str, Any], **parts: Any) -> Trainer:
    """Return the trainer of sft-answers."""
    args = SFTConfig(**arguments, max_length=None)
    return make_trainer_class(SFTTrainer)(args=args, data_collator=partial(sft_batch, encode=encode), **parts)


def sft_batch(rows: Sequence[Mapping[str, Any]], encode: AnswerEncoder) -> dict[str, torch.Tensor]:
    """Collate B rows with their labels."""
    return with_labels(encode(rows, [row["reply"] for row in rows]))


def dpo(stage: TrainingStage, encode: AnswerEncoder, arguments: dict[str, Any], **parts: Any) -> Trainer:
    """Return the trainer of dpo-answers."""
    args, reference = DPOConfig(**arguments, max_length=None), models.load_reference(stage.folder, stage.config)
    collate = partial(dpo_batch, encode=encode)
    return make_trainer_class(DPOTrainer)(args=args, data_collator=collate, ref_model=reference, **parts)


def dpo_batch(rows: Sequence[Mapping[str, Any]], encode: AnswerEncoder) -> dict[str, torch.Tensor]:
    """Collate rows in TRL's order: [chosen | rejected]."""
    return encode([*rows, *rows], [row[f"{side}_response"] for side in ("win", "lose") for row in rows])


def kto(stage: TrainingStage, encode: AnswerEncoder, arguments: dict[str, Any], **parts: Any) -> Trainer:
    """Return the trainer of kto-answers.

    Neighbors in a batch estimate the KL term, so the rows are shuffled once, and TRL needs that order kept.
    """
    parts["train_dataset"] = parts["train_dataset"].shuffle(seed=stage.config.seed)
    args = KTOConfig(**arguments, max_length=None, train_sampling_strategy="sequential")
    collate, reference = partial(kto_batch, encode=encode), models.load_reference(stage.folder, stage.config)
    return make_trainer_class(KTOTrainer)(args=args, data_collator=collate, ref_model=reference, **parts)


def kto_batch(rows: Sequence[Mapping[str, Any]], encode: AnswerEncoder) -> dict[str, torch.Tensor]:
    """Collate B rows, and under KL_* the same prompts with the response of the row before, to estimate the KL term.

    Both are encoded in one call, so that they are equally long; the images of the second half are the first's.
    """
    replies = [row["reply"] for row in rows]
    both = encode([*rows, *rows], [*replies, *replies[-1:], *replies[:-1]])
    halves = {name: value.chunk(2) for name, value in both.items()}
    per_token = ("input_ids", "attention_mask", "completion_mask", "token_type_ids", "mm_token_type_ids")
    return {
        **{name: first for name, (first, _) in halves.items()},
        **{f"KL_{name}": halves[name][1] for name in per_token if name in halves},
        "label": torch.tensor([row["label"] for row in rows]),
    }
