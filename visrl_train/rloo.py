"""The online answer-only baseline of the paper's Table 5: the model learns from replies that it samples itself.

The paper uses PPO with a reward model. TRL has no PPO any more, so the policy learns by RLOO (Ahmadian et al.,
2024), which needs no value model. As in the paper, one half of the pairs trains the reward model and the
questions of the other half train the policy; no picture is in both.

    --reward model    score of a reply = a linear head on the hidden state of its last token, in a copy of the
                      model with an adapter of its own; -log sigma(score(win) - score(lose)), as in TRL's
                      RewardTrainer, which reads text alone
    --reward METRIC   how well the reply agrees with the answers of the question, by a metric of core/metrics.py:
                      exact, normalized, anls, vqa. The same half of the questions, no reward model

Like the baselines of answers.py it sees no crop and no box, and starts from the ORIGINAL model. TRL prepares
the sampled rows by itself, so this recipe works for the families that its RLOOTrainer knows (LLaVA, Qwen-VL,
Gemma 3, ...), not for Mllama. The reward model is no product: it lies in the work folder until the end, and is
trained anew when an interruption falls into its training.

    visrl train rloo-answers
    visrl train rloo-answers --data runs/cars --reward normalized -o models/cars-rloo
    accelerate launch --num_processes 8 -m visrl_cli train rloo-answers --data runs/cars -o models/cars-rloo
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from datasets import Dataset
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback
from trl import RLOOConfig, RLOOTrainer

from visrl_data.core.errors import VisRLError
from visrl_data.core.metrics import answer_metric
from visrl_data.core.seeds import keyed_seed
from visrl_train import models, stage
from visrl_train.answer_baselines import DIRECT_PROMPT, AnswerWriter, begin_from_original, different, dpo_batch
from visrl_train.collator import Album
from visrl_train.config import RlooAnswersConfig
from visrl_train.metrics_log import MetricsLog
from visrl_train.pairs import Pair, read_pairs
from visrl_train.stage import Stage
from visrl_train.tokenization import Turns

Reward = Callable[..., list[float | None]]
"""As TRL has it: None would leave a row out, which ours never do."""


def train(config: RlooAnswersConfig, output: Path | None = None, callbacks: Sequence[TrainerCallback] = ()) -> Path:
    """Run the baseline and return the model's folder. Started again after an interruption it goes on."""
    pairs = read_pairs(config.data)
    work = begin_from_original("rloo-answers", config, pairs, output)
    if config.full and work.folder.base is not None:
        raise VisRLError(f"--full starts from full weights, {work.folder.id} is an adapter. `visrl merge` it first.")
    with stage.begin(work) as finished:
        if finished:
            return work.output
        first, second = halves(different(pairs))
        model, processor = models.load_policy(work.folder, config), stage.load_processor(work)
        write = AnswerWriter(Turns(processor, models.token_limit(model)), pairs.read_image)
        training, validation = stage.split(second, config.validation)
        work = stage.counted(work, reward_pairs=len(first), train=len(training), validation=len(validation))
        reward = (
            scores(train_reward(work, config, write, first), write)
            if config.reward == "model"
            else agreement(config.reward)
        )
        trainer = stage.ours(RLOOTrainer)(
            model=model,
            reward_funcs=reward,
            args=RLOOConfig(**rloo_settings(stage.arguments(work, model, bool(validation)), config)),
            train_dataset=asked(training, write),
            eval_dataset=asked(validation, write) if validation else None,
            processing_class=processor,
            callbacks=list(callbacks),
        )
        stage.fit(trainer, work)
        return stage.publish(trainer, work)


def halves(pairs: Sequence[Pair]) -> tuple[list[Pair], list[Pair]]:
    """By image, so that no picture is in both. Raises VisRLError when one is empty."""
    first = [pair for pair in pairs if keyed_seed("reward half", pair.image) % 2 == 0]
    second = [pair for pair in pairs if keyed_seed("reward half", pair.image) % 2]
    if not first or not second:
        raise VisRLError(f"{len(pairs)} pairs of too few images: they can't be split into a half for the reward.")
    return first, second


def rloo_settings(settings: dict[str, Any], config: RlooAnswersConfig) -> dict[str, Any]:
    """TRL counts replies where our options count questions."""
    rows = config.batch_size * config.replies
    return settings | {
        "per_device_train_batch_size": rows,
        "per_device_eval_batch_size": rows,
        "num_generations": config.replies,
        "temperature": config.temperature,
        "max_completion_length": config.max_new_tokens,
        "beta": config.beta,
    }


def asked(rows: Sequence[Mapping[str, Any]], write: AnswerWriter) -> Dataset:
    """The rows with what TRL samples from: `prompt` (a chat) and `images`, which are read when they are needed."""

    def with_pictures(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        album = Album(write.read_image)
        _, words = DIRECT_PROMPT.parts(question="{question}")
        texts = [write.turns.plain(words.text.replace("{question}", question)) for question in batch["question"]]
        return {
            **batch,
            "prompt": [[{"role": "user", "content": text}] for text in texts],
            "images": [[album.picture(image)] for image in batch["image"]],
        }

    return Dataset.from_list(list(rows)).with_transform(with_pictures)


def agreement(name: str) -> Reward:
    """Return the reward that needs no model: an answer metric of the reply."""
    metric = answer_metric(name)

    def score(completions: list[Any], answers: list[list[str]], **_: Any) -> list[float | None]:
        return [metric(_said(completion), answer) for completion, answer in zip(completions, answers, strict=True)]

    return score


def scores(judge: RewardModel, write: AnswerWriter) -> Reward:
    """The reward model as a function of TRL's columns."""

    @torch.no_grad()
    def score(completions: list[Any], **columns: Any) -> list[float | None]:
        rows = [dict(zip(("id", "question", "image"), row, strict=True)) for row in
                zip(columns["id"], columns["question"], columns["image"], strict=True)]  # fmt: skip
        batch = write(rows, [_said(completion) for completion in completions])
        device = next(judge.parameters()).device
        found: list[float | None] = judge(**{name: value.to(device) for name, value in batch.items()}).tolist()
        return found

    return score


def _said(completion: list[dict[str, str]]) -> str:
    return completion[0]["content"].strip()


class RewardModel(nn.Module):
    """The model's body, with one number in place of words: the score of a reply, read at its last token."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.head = nn.Linear(model.config.get_text_config().hidden_size, 1, bias=False)
        nn.init.zeros_(self.head.weight)

    def forward(self, completion_mask: torch.Tensor, **batch: torch.Tensor) -> torch.Tensor:
        """(B, L) tokens, padded on the right -> (B,) scores."""
        whole = self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model
        hidden = whole.base_model(**batch, use_cache=False).last_hidden_state  # (B, L, D)
        last = batch["attention_mask"].sum(dim=1) - 1
        ends = hidden[torch.arange(len(last), device=last.device), last]  # (B, D)
        found: torch.Tensor = self.head(ends.to(self.head.weight.dtype))[:, 0]
        return found

    def gradient_checkpointing_enable(self, **options: Any) -> None:
        self.model.gradient_checkpointing_enable(**options)

    def trained(self) -> dict[str, torch.Tensor]:
        return {name: value.detach() for name, value in self.named_parameters() if value.requires_grad}


class RewardTrainer(Trainer):
    def compute_loss(self, model: Any, inputs: dict[str, torch.Tensor], *_: Any, **__: Any) -> torch.Tensor:
        win, lose = model(**inputs).chunk(2)
        return -F.logsigmoid(win - lose).mean()


def train_reward(work: Stage, config: RlooAnswersConfig, write: AnswerWriter, pairs: Sequence[Pair]) -> RewardModel:
    """A reward model of these pairs, frozen; from the work folder, if it was finished there."""
    judge, kept = RewardModel(models.load_policy(work.folder, config)), work.work / "reward.safetensors"
    settings = stage.arguments(work, judge.model, False) | {
        "learning_rate": config.reward_learning_rate,
        "num_train_epochs": config.reward_epochs,
        "save_strategy": "no",
        "run_name": f"{work.output.name} (reward)",
        "output_dir": str(work.work / "reward"),
    }
    rows, _ = stage.split(pairs, 0.0)
    trainer = RewardTrainer(
        model=judge,
        args=TrainingArguments(**settings),
        train_dataset=Dataset.from_list(rows),
        data_collator=partial(dpo_batch, write=write),
    )
    if not kept.is_file():
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(MetricsLog(work.output / "reward.jsonl"))
        trainer.train()
        if trainer.accelerator.is_main_process:
            save_file({name: value.cpu().contiguous() for name, value in judge.trained().items()}, kept)
        trainer.accelerator.wait_for_everyone()
    judge.load_state_dict(load_file(kept), strict=False)
    return judge.eval().requires_grad_(False)
