"""The online answer-only baseline of the paper's Table 5: the model learns from replies that it samples itself.

The paper uses PPO with a reward model. TRL has no PPO anymore, so the policy learns by RLOO (Ahmadian et al.,
2024), which needs no value model. As in the paper, one half of the pairs trains the reward model and the
questions of the other half train the policy; no image is in both.

    --reward model    score of a reply = a linear head on the hidden state of its last token, in a copy of the
                      model with an adapter of its own; -log sigma(score(chosen) - score(rejected)), as in
                      TRL's RewardTrainer, which reads text alone
    --reward METRIC   agreement of the reply with the answers of the question, by a metric of core/metrics.py:
                      exact, normalized, anls, vqa. The same half of the questions, no reward model

Like the baselines of answer_baselines.py it sees no crop and no box, and starts from the ORIGINAL model. TRL prepares
the sampled rows by itself, so this recipe works for the families that its RLOOTrainer supports (LLaVA, Qwen-VL,
Gemma 3, ...), not for Mllama. The reward model is temporary: it stays in the work folder until the end, and its
training restarts when it is interrupted.

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
from visrl_train import models, stage_folder, trainers
from visrl_train.answer_baselines import (
    DIRECT_PROMPT,
    AnswerEncoder,
    dpo_batch,
    pairs_with_responses,
    prepare_from_original,
)
from visrl_train.collator import ImageCache
from visrl_train.config import RlooAnswersConfig
from visrl_train.metrics_log import MetricsLog
from visrl_train.pairs import Pair, read_pairs
from visrl_train.stage_folder import TrainingStage
from visrl_train.tokenization import Turns

Reward = Callable[..., list[float | None]]
"""The signature that TRL expects; None would skip a row, which our rewards never do."""


def train(config: RlooAnswersConfig, output: Path | None = None, callbacks: Sequence[TrainerCallback] = ()) -> Path:
    """Run the baseline and return the model's folder. An interrupted baseline resumes."""
    pairs = read_pairs(config.data)
    stage = prepare_from_original("rloo-answers", config, pairs, output)
    if config.full and stage.folder.base is not None:
        raise VisRLError(f"--full starts from full weights, {stage.folder.id} is an adapter. `visrl merge` it first.")
    with stage_folder.open_stage(stage) as is_finished:
        if is_finished:
            return stage.output
        first, second = halves(pairs_with_responses(pairs))
        model, processor = models.load_policy(stage.folder, config), stage_folder.load_processor(stage)
        encode = AnswerEncoder(Turns(processor, models.token_limit(model)), pairs.read_image)
        training, validation = stage_folder.split(second, config.validation)
        stage = stage_folder.with_rows(stage, training, validation, reward_pairs=len(first))
        args = RLOOConfig(**rloo_arguments(trainers.training_arguments(stage, model, bool(validation)), config))
        check_questions(args, config.replies, len(training))
        if config.reward == "model":
            reward = model_reward(train_reward(stage, config, encode, first), encode)
        else:
            reward = metric_reward(config.reward)
        trainer = trainers.make_trainer_class(RLOOTrainer)(
            model=model,
            reward_funcs=reward,
            args=args,
            train_dataset=prompt_dataset(training, encode),
            eval_dataset=prompt_dataset(validation, encode) if validation else None,
            processing_class=processor,
            callbacks=list(callbacks),
        )
        trainers.fit(trainer, stage)
        return stage_folder.save_model(trainer, stage)


def halves(pairs: Sequence[Pair]) -> tuple[list[Pair], list[Pair]]:
    """Split the pairs by image, so that no image is in both halves. Raises VisRLError when one is empty."""
    first = [pair for pair in pairs if keyed_seed("reward half", pair.image) % 2 == 0]
    second = [pair for pair in pairs if keyed_seed("reward half", pair.image) % 2]
    if not first or not second:
        raise VisRLError(
            f"{len(pairs)} pairs of too few images: one half, for the reward model or for the policy, would be empty. "
            "Generate pairs from more images."
        )
    return first, second


def rloo_arguments(arguments: dict[str, Any], config: RlooAnswersConfig) -> dict[str, Any]:
    """Return the fields of RLOOConfig: TRL counts replies where our options count questions."""
    rows = config.batch_size * config.replies
    return arguments | {
        "per_device_train_batch_size": rows,
        "per_device_eval_batch_size": rows,
        "num_generations": config.replies,
        "temperature": config.temperature,
        "max_completion_length": config.max_new_tokens,
        "beta": config.beta,
    }


def check_questions(args: RLOOConfig, replies: int, questions: int) -> None:
    """Raise VisRLError when a step takes more questions than there are: TRL makes whole steps only, so none."""
    needed = (args.generation_batch_size or 0) // replies
    if questions < needed:
        raise VisRLError(
            f"{questions} questions to train on, and a step takes {needed}: --batch-size x --accumulation on each "
            "device. Make one of these smaller, or generate pairs from more images."
        )


def prompt_dataset(rows: Sequence[Mapping[str, Any]], encode: AnswerEncoder) -> Dataset:
    """Return the rows with TRL's columns for sampling: `prompt` (a chat) and `images`, which are read lazily."""

    def with_images(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        cache = ImageCache(encode.read_image)
        _, words = DIRECT_PROMPT.parts(question="{question}")
        texts = [encode.turns.plain(words.text.replace("{question}", question)) for question in batch["question"]]
        return {
            **batch,
            "prompt": [[{"role": "user", "content": text}] for text in texts],
            "images": [[cache.get(image)] for image in batch["image"]],
        }

    return Dataset.from_list(list(rows)).with_transform(with_images)


def metric_reward(name: str) -> Reward:
    """Return the reward that needs no model: an answer metric of the reply."""
    metric = answer_metric(name)

    def score(completions: list[Any], answers: list[list[str]], **_: Any) -> list[float | None]:
        return [metric(_text(completion), answer) for completion, answer in zip(completions, answers, strict=True)]

    return score


def model_reward(reward_model: RewardModel, encode: AnswerEncoder) -> Reward:
    """Return the reward model as a function of TRL's columns."""

    @torch.no_grad()
    def score(completions: list[Any], **columns: Any) -> list[float | None]:
        rows = [dict(zip(("id", "question", "image"), row, strict=True)) for row in
                zip(columns["id"], columns["question"], columns["image"], strict=True)]  # fmt: skip
        batch = encode(rows, [_text(completion) for completion in completions])
        device = next(reward_model.parameters()).device
        scores: list[float | None] = reward_model(**{name: value.to(device) for name, value in batch.items()}).tolist()
        return scores

    return score


def _text(completion: list[dict[str, str]]) -> str:
    return completion[0]["content"].strip()


class RewardModel(nn.Module):
    """The model without its output layer, with a linear head on the last token: the score of a reply."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.head = nn.Linear(model.config.get_text_config().hidden_size, 1, bias=False)
        nn.init.zeros_(self.head.weight)

    def forward(self, completion_mask: torch.Tensor, **batch: torch.Tensor) -> torch.Tensor:
        """Score a batch: (B, L) tokens, padded on the right -> (B,)."""
        whole = self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model
        hidden = whole.base_model(**batch, use_cache=False).last_hidden_state  # (B, L, D)
        last = batch["attention_mask"].sum(dim=1) - 1
        ends = hidden[torch.arange(len(last), device=last.device), last]  # (B, D)
        scores: torch.Tensor = self.head(ends.to(self.head.weight.dtype))[:, 0]
        return scores

    def gradient_checkpointing_enable(self, **options: Any) -> None:
        self.model.gradient_checkpointing_enable(**options)


class RewardTrainer(Trainer):
    def compute_loss(self, model: Any, inputs: dict[str, torch.Tensor], *_: Any, **__: Any) -> torch.Tensor:
        chosen, rejected = model(**inputs).chunk(2)
        return -F.logsigmoid(chosen - rejected).mean()


def train_reward(
    stage: TrainingStage, config: RlooAnswersConfig, encode: AnswerEncoder, pairs: Sequence[Pair]
) -> RewardModel:
    """Train a reward model on the pairs, or load it from the work folder if it is finished there; return it frozen."""
    reward_model, path = RewardModel(models.load_policy(stage.folder, config)), stage.work / "reward.safetensors"
    arguments = trainers.training_arguments(stage, reward_model.model, False) | {
        "learning_rate": config.reward_learning_rate,
        "num_train_epochs": config.reward_epochs,
        "save_strategy": "no",
        "run_name": f"{stage.output.name} (reward)",
        "output_dir": str(stage.work / "reward"),
    }
    rows, _ = stage_folder.split(pairs, 0.0)
    trainer = RewardTrainer(
        model=reward_model,
        args=TrainingArguments(**arguments),
        train_dataset=Dataset.from_list(rows),
        data_collator=partial(dpo_batch, encode=encode),
    )
    if not path.is_file():
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(MetricsLog(stage.output / "reward.jsonl"))
        trainer.train()
        if trainer.accelerator.is_main_process:
            trained = {name: value for name, value in reward_model.named_parameters() if value.requires_grad}
            save_file({name: value.detach().cpu().contiguous() for name, value in trained.items()}, path)
        trainer.accelerator.wait_for_everyone()
    reward_model.load_state_dict(load_file(path), strict=False)
    return reward_model.eval().requires_grad_(False)
