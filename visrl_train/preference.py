"""The loss of RL1 and RL2 (Eq. 5-8), on TRL's DPO trainer; rl1.py and rl2.py choose its terms.

For a pair (x, I, b_w, r_w, b_l, r_l), with h(y) = log pi(y|...) / pi_ref(y|...):

    l_B = -log sigma( beta_B (h(b_w | x, I)      - h(b_l | x, I)) )            the preference over boxes
    l_R = -log sigma( beta_R (h(r_w | x, I, I_w) - h(r_l | x, I, I_w)) )       the preference over responses

    RL1:  mean over the pairs of l_B                                           Eq. 5-6
    RL2:  mean over the pairs of lambda_B l_B + lambda_R l_R                   Eq. 7-8

With --win-nll A above 0, which is not in the paper, A times the mean negative log-likelihood per token of the chosen
completion is added to l_B and l_R (RPO; Pang et al. 2024, arXiv 2404.19733). Plain DPO may lower the likelihood of
both sides.

Departures from the paper: a pair whose responses are the same text has no l_R, and still counts in the mean;
with --response-crop own, r_l is conditioned on the crop of its own box.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from datasets import Dataset
from transformers import TrainerCallback
from trl import DPOConfig, DPOTrainer

from visrl_train import branches, models, reference_cache, stage_folder, trainers
from visrl_train.collator import PairCollator
from visrl_train.config import Rl1Config
from visrl_train.image_features import shares
from visrl_train.image_settings import fit_boxes
from visrl_train.pairs import PairSet
from visrl_train.stage_folder import TrainingStage
from visrl_train.tokenization import Turns

STEPS = ("focus", "response")
METRICS = ("loss", "dpo", "nll", "reward_chosen", "reward_rejected", "margin", "accuracy", "ties")


@dataclass(frozen=True, slots=True)
class LossConfig:
    """The terms of the loss. response_crop: None leaves the response term out; "win" or "own" includes it."""

    beta_b: float
    beta_r: float = 0.0
    lambda_b: float = 1.0
    lambda_r: float = 0.0
    response_crop: str | None = None
    win_nll: float = 0.0


def train_pairs(
    stage: TrainingStage,
    config: Rl1Config,
    pairs: PairSet,
    loss: LossConfig,
    callbacks: Sequence[TrainerCallback] = (),
) -> Path:
    """Train one model on pairs, with a frozen copy of the initial model as the reference. Return its folder."""
    with stage_folder.open_stage(stage) as is_finished:
        if is_finished:
            return stage.output
        model, processor = models.load_policy(stage.folder, config), stage_folder.load_processor(stage)
        turns = Turns(processor, models.token_limit(model), shares(model))
        pairs = fit_boxes(pairs, processor, may_rewrite=config.max_pixels is not None)
        collator = PairCollator(
            turns, pairs.prompts, pairs.read_image, loss.response_crop, branches=branches.branching(model, processor)
        )
        train, validation = stage_folder.split(pairs.pairs, config.validation)
        stage = stage_folder.with_rows(stage, train, validation)
        trainer = PreferenceTrainer(
            loss=loss,
            model=model,
            ref_model=models.load_reference(stage.folder, config),
            args=DPOConfig(**trainers.training_arguments(stage, model, bool(validation)), max_length=None),
            data_collator=collator,
            train_dataset=Dataset.from_list(train),
            eval_dataset=Dataset.from_list(validation) if validation else None,
            processing_class=processor,
            callbacks=list(callbacks),
        )
        if config.cache_reference:
            key = reference_key(stage, pairs, loss)
            trainer.use_reference(reference_cache.load_table(trainer, collator, [*train, *validation], key))
        trainers.fit(trainer, stage)
        return stage_folder.save_model(trainer, stage)


def reference_key(stage: TrainingStage, pairs: PairSet, loss: LossConfig) -> tuple[str, ...]:
    """Return all that the reference's log-probabilities depend on."""
    folder = stage.folder
    prompts = [prompt.id for prompt in (pairs.prompts.focus, pairs.prompts.answer)]
    dtype = str(models.compute_dtype(stage.config))
    bits = ("4 bits",) if stage.config.quantize else ()
    return (
        folder.digest, folder.weights.digest, pairs.digest, pairs.crop_rule.name, str(loss.response_crop),
        *prompts, str(stage.max_pixels), dtype, *bits,
    )  # fmt: skip


class _PreferenceTrainer(DPOTrainer):
    """TRL's DPO trainer with the loss of this file. A batch is what PairCollator makes.

    metric_sums: mode ("train" or "eval") -> (STEPS, METRICS and a count), sums over the rows since the last log.
    """

    def __init__(self, loss: LossConfig, **options: Any) -> None:
        self.loss_config = loss
        self.metric_sums: dict[str, torch.Tensor] = {}
        super().__init__(**options)

    def use_reference(self, table: reference_cache.Table) -> None:
        """Take the reference's log-probabilities from a table and release the reference model."""
        collator: Any = self.data_collator
        self.data_collator: Any = dataclasses.replace(collator, reference=table)
        self.ref_model = None

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> torch.Tensor:
        """Return the loss of a batch of P boxes and Q responses: first all chosen, then all rejected.

        Tensors below: (P + Q,).
        """
        inputs = dict(inputs)
        has_response = inputs.pop("has_response")
        pairs = len(has_response)
        cached = [inputs.pop(name) for name in ("ref_chosen_logps", "ref_rejected_logps") if name in inputs]
        chosen, rejected = self._log_probs(model, inputs)
        ref_chosen, ref_rejected = cached or self.compute_ref_log_probs(self.ref_model or self.model, inputs)
        beta = torch.full_like(chosen, self.loss_config.beta_r)
        beta[:pairs] = self.loss_config.beta_b
        reward_chosen, reward_rejected = beta * (chosen - ref_chosen), beta * (rejected - ref_rejected)
        dpo = -F.logsigmoid(reward_chosen - reward_rejected)
        nll = -chosen / branches.lengths(inputs).chunk(2)[0]
        losses = dpo + self.loss_config.win_nll * nll
        self._record(has_response, losses, dpo, nll, reward_chosen, reward_rejected)
        # Divided by the pairs, not by the rows: a pair without a response term still counts in the mean.
        weighted = self.loss_config.lambda_b * losses[:pairs].sum() + self.loss_config.lambda_r * losses[pairs:].sum()
        return weighted / pairs

    def _log_probs(self, model: Any, inputs: dict[str, torch.Tensor]) -> tuple[torch.Tensor, ...]:
        """Return log pi of each completion, summed over its tokens: of the chosen, of the rejected."""
        model_inputs = {name: value for name, value in inputs.items() if name not in ("completion_mask", "completions")}
        labels = inputs["input_ids"].masked_fill(inputs["completion_mask"] == 0, -100)
        outputs = model(**model_inputs, labels=labels, use_cache=False, fused_lm_head=True)
        sums: tuple[torch.Tensor, ...] = branches.sums(outputs.log_probs, inputs.get("completions")).chunk(2)
        return sums

    def compute_ref_log_probs(self, model: Any, inputs: dict[str, torch.Tensor]) -> tuple[torch.Tensor, ...]:
        """Return the same under the reference.

        TRL's own method sums over the row, which may hold several completions; so it gets a model whose "tokens"
        are sums over completions.
        """
        inputs = dict(inputs)
        completions = inputs.pop("completions", None)

        def forward(**model_inputs: Any) -> Any:
            sums = branches.sums(model(**model_inputs).log_probs, completions)
            return SimpleNamespace(log_probs=sums[:, None])

        reference: tuple[torch.Tensor, ...] = super().compute_ref_log_probs(forward, inputs)  # type: ignore[no-untyped-call]  # TRL
        return reference

    @property
    def _mode(self) -> str:
        model: Any = self.model
        return "train" if model.training else "eval"

    @torch.no_grad()
    def _record(self, has_response: torch.Tensor, *values: torch.Tensor) -> None:
        """Add a batch to the sums of its mode, over all devices.

        has_response: (P,). values: loss, DPO term, NLL term, rewards of chosen and rejected, each (P + Q,).
        """
        margins = values[-2] - values[-1]
        rows = torch.stack([*values, margins, margins > 0, margins == 0, torch.ones_like(margins)], dim=1).float()
        of_pairs = rows.new_zeros(len(has_response), len(STEPS), rows.shape[1])
        of_pairs[:, 0], of_pairs[has_response, 1] = rows[: len(has_response)], rows[len(has_response) :]
        if self._mode == "eval":  # without the pairs that repeat so that all devices have full batches
            total = self.accelerator.gather_for_metrics(of_pairs).sum(dim=0)
        else:
            total = self.accelerator.reduce(of_pairs.sum(dim=0), "sum")
        self.metric_sums[self._mode] = self.metric_sums.get(self._mode, 0) + total

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the means per pair of the metrics since the last log, and log."""
        prefix = "" if self._mode == "train" else "eval_"
        logs.update({f"{prefix}{name}": value for name, value in self.metric_means(self._mode).items()})
        self.metric_sums.pop(self._mode, None)
        super().log(logs, start_time)

    def metric_means(self, mode: str) -> dict[str, float]:
        """Return the means of the steps that have rows; the terms of the loss only where there are two."""
        sums = self.metric_sums[mode].tolist() if mode in self.metric_sums else []
        left_out = () if self.loss_config.win_nll else ("dpo", "nll")
        return {
            f"{step}/{name}": total / count
            for step, (*totals, count) in zip(STEPS, sums, strict=False)
            if count
            for name, total in zip(METRICS, totals, strict=True)
            if name not in left_out
        }


PreferenceTrainer = trainers.make_trainer_class(_PreferenceTrainer)
