"""Answer-only baselines of the paper's Table 5: SFT, DPO and KTO on the responses of the same pairs.

They leave out what VisRL is about: the model sees image and question and answers at once, with no crop and no
box. What they gain is what a better answer alone is worth.

    sft-answers   the win's response is learnt word by word
    dpo-answers   DPO: the win's response against the lose's
    kto-answers   KTO: each response on its own, wanted (win) or not (lose)

Pairs whose two responses are the same text train SFT only. rloo.py is the baseline that samples its own replies.

Ours, where the paper says nothing: the prompt, which is the one that `visrl eval` uses for a model without a
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
from visrl_train import models, stage
from visrl_train.collator import Album, ReadImage, with_labels
from visrl_train.config import AnswersConfig, DpoAnswersConfig, KtoAnswersConfig, SftAnswersConfig
from visrl_train.image_features import shares
from visrl_train.pairs import Pair, PairSet, read_pairs
from visrl_train.rl1 import prepare
from visrl_train.stage import Stage
from visrl_train.tokenization import Turn, Turns

DIRECT_PROMPT = Prompt("direct", DIRECT)


@dataclass(frozen=True, slots=True)
class Answer:
    """A response of a pair. label: True for the win's."""

    id: str
    question: str
    image: str
    reply: str
    label: bool


def train(config: AnswersConfig, output: Path | None = None, callbacks: Sequence[TrainerCallback] = ()) -> Path:
    """Run a baseline and return the model's folder. Started again after an interruption it goes on."""
    recipes: dict[type[AnswersConfig], tuple[str, Callable[[PairSet], Sequence[Any]], Callable[..., Trainer]]] = {
        SftAnswersConfig: ("sft-answers", wins, sft),
        DpoAnswersConfig: ("dpo-answers", different, dpo),
        KtoAnswersConfig: ("kto-answers", responses, kto),
    }
    name, rows_of, trainer_of = recipes[type(config)]
    pairs = read_pairs(config.data)
    work = begin_from_original(name, config, pairs, output)
    with stage.begin(work) as finished:
        if finished:
            return work.output
        model, processor = models.load_policy(work.folder, config), stage.load_processor(work)
        write = AnswerWriter(Turns(processor, models.token_limit(model), shares(model)), pairs.read_image)
        training, validation = stage.split(rows_of(pairs), config.validation)
        work = stage.counted(work, train=len(training), validation=len(validation))
        settings = stage.arguments(work, model, bool(validation))
        if isinstance(config, DpoAnswersConfig):
            settings["beta"] = config.beta
        trainer = trainer_of(
            work,
            write,
            settings,
            model=model,
            train_dataset=Dataset.from_list(training),
            eval_dataset=Dataset.from_list(validation) if validation else None,
            processing_class=processor,
            callbacks=list(callbacks),
        )
        stage.fit(trainer, work)
        return stage.publish(trainer, work)


def begin_from_original(name: str, config: AnswersConfig, pairs: PairSet, output: Path | None) -> Stage:
    """The stage; without --model it starts from the original model of the actor that made the pairs."""
    folder = original(pairs) if config.model is None else find_model(config.model, config.trust_remote_code)
    return prepare(name, config, pairs, folder, output, prompts=(DIRECT_PROMPT,))


def original(pairs: PairSet) -> ModelFolder:
    """Raises VisRLError when the pairs don't name it."""
    if pairs.origin is None:
        raise VisRLError(f"{pairs.name} names no original model. Name the one to train with --model.")
    return find_model(pairs.origin)


def wins(pairs: PairSet) -> list[Answer]:
    return [_answer(pair, "win") for pair in pairs.pairs]


def different(pairs: PairSet) -> list[Pair]:
    """Pairs with two different responses. Raises VisRLError when there is none."""
    found = [pair for pair in pairs.pairs if pair.has_response]
    if not found:
        raise VisRLError(f"All pairs of {pairs.name} have two equal responses, so no answer is preferred.")
    return found


def responses(pairs: PairSet) -> list[Answer]:
    """Both responses of each pair."""
    return [_answer(pair, side) for pair in different(pairs) for side in ("win", "lose")]


def _answer(pair: Pair, side: str) -> Answer:
    return Answer(f"{pair.id} ({side})", pair.question, pair.image, getattr(pair, f"{side}_response"), side == "win")


@dataclass(frozen=True, slots=True)
class AnswerWriter:
    """Rows and the replies to learn -> a batch of answer turns without a crop."""

    turns: Turns
    read_image: ReadImage

    def __call__(self, rows: Sequence[Mapping[str, Any]], replies: Sequence[str]) -> dict[str, torch.Tensor]:
        album = Album(self.read_image)
        made = [
            Turn(row["id"], DIRECT_PROMPT.parts(question=row["question"]), (album.picture(row["image"]),), reply)
            for row, reply in zip(rows, replies, strict=True)
        ]
        return self.turns.encode(made)


def sft(work: Stage, write: AnswerWriter, settings: dict[str, Any], **parts: Any) -> Trainer:
    args = SFTConfig(**settings, max_length=None)
    return stage.ours(SFTTrainer)(args=args, data_collator=partial(sft_batch, write=write), **parts)


def sft_batch(rows: Sequence[Mapping[str, Any]], write: AnswerWriter) -> dict[str, torch.Tensor]:
    return with_labels(write(rows, [row["reply"] for row in rows]))


def dpo(work: Stage, write: AnswerWriter, settings: dict[str, Any], **parts: Any) -> Trainer:
    args = DPOConfig(**settings, max_length=None)
    collate = partial(dpo_batch, write=write)
    return stage.ours(DPOTrainer)(args=args, data_collator=collate, ref_model=models.reference(work), **parts)


def dpo_batch(rows: Sequence[Mapping[str, Any]], write: AnswerWriter) -> dict[str, torch.Tensor]:
    """[wins | loses], as TRL has it."""
    return write([*rows, *rows], [row[f"{side}_response"] for side in ("win", "lose") for row in rows])


def kto(work: Stage, write: AnswerWriter, settings: dict[str, Any], **parts: Any) -> Trainer:
    """Neighbours in a batch estimate the KL term, so the rows are mixed once, and TRL wants that order kept."""
    parts["train_dataset"] = parts["train_dataset"].shuffle(seed=work.config.seed)
    args = KTOConfig(**settings, max_length=None, train_sampling_strategy="sequential")
    collate = partial(kto_batch, write=write)
    return stage.ours(KTOTrainer)(args=args, data_collator=collate, ref_model=models.reference(work), **parts)


def kto_batch(rows: Sequence[Mapping[str, Any]], write: AnswerWriter) -> dict[str, torch.Tensor]:
    """B rows, and under KL_* the same prompts with the response of the row before, which estimate the KL term.

    Both are written in one call, so that they are equally long; the pictures of the second half are the first's.
    """
    replies = [row["reply"] for row in rows]
    both = write([*rows, *rows], [*replies, *replies[-1:], *replies[:-1]])
    made = {name: value.chunk(2) for name, value in both.items()}
    batch = {name: halves[0] for name, halves in made.items()}
    per_token = ("input_ids", "attention_mask", "completion_mask", "token_type_ids", "mm_token_type_ids")
    batch |= {f"KL_{name}": made[name][1] for name in per_token if name in made}
    return {**batch, "label": torch.tensor([row["label"] for row in rows])}
