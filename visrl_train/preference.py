"""The loss of RL1 and RL2 (Eq. 5-8), on TRL's DPO trainer; rl1.py and rl2.py say with which terms.

For a pair (x, I, b_w, r_w, b_l, r_l), with h(y) = log pi(y|...) / pi_ref(y|...):

    l_B = -log sigma( beta_B (h(b_w | x, I)      - h(b_l | x, I)) )            Eq. 6
    l_R = -log sigma( beta_R (h(r_w | x, I, I_w) - h(r_l | x, I, I_w)) )       Eq. 8
    loss = mean over the pairs of  lambda_B l_B + lambda_R l_R                 Eq. 7; RL1: lambda_B = 1, l_B alone

With --win-nll A above 0, which is not the paper's, A times the mean negative log-likelihood of a win's token is
added to l_B and l_R (RPO; Pang et al. 2024, arXiv 2404.19733). Plain DPO may lower the likelihood of both sides.

Departures from the paper: a pair whose responses are the same text has no l_R, and still counts in the mean;
with --response-crop own, r_l stands under the crop of its own box.
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

from visrl_train import branches, models, reference_cache, stage
from visrl_train.collator import PairCollator
from visrl_train.config import Rl1Config
from visrl_train.image_features import shares
from visrl_train.pairs import PairSet
from visrl_train.stage import Stage
from visrl_train.tokenization import Turns

STEPS = ("focus", "response")


@dataclass(frozen=True, slots=True)
class Terms:
    """What the loss is made of. response_crop: None leaves the response term out; "win" or "own" has it."""

    beta_b: float
    beta_r: float = 0.0
    lambda_b: float = 1.0
    lambda_r: float = 0.0
    response_crop: str | None = None
    win_nll: float = 0.0


def train_pairs(
    work: Stage, config: Rl1Config, pairs: PairSet, terms: Terms, callbacks: Sequence[TrainerCallback] = ()
) -> Path:
    """Train one model on pairs; the frozen copy of what it starts from is the reference. Returns its folder."""
    with stage.begin(work) as finished:
        if finished:
            return work.output
        model, processor = models.load_policy(work.folder, config), stage.load_processor(work)
        turns = Turns(processor, models.token_limit(model), shares(model))
        collator = PairCollator(
            turns, pairs.prompts, pairs.read_image, terms.response_crop, branches=branches.branching(model, processor)
        )
        train, validation = stage.split(pairs.pairs, config.validation)
        work = stage.counted(work, train=len(train), validation=len(validation))
        trainer = PreferenceTrainer(
            terms=terms,
            model=model,
            ref_model=models.reference(work),
            args=DPOConfig(**stage.arguments(work, model, bool(validation)), max_length=None),
            data_collator=collator,
            train_dataset=Dataset.from_list(train),
            eval_dataset=Dataset.from_list(validation) if validation else None,
            processing_class=processor,
            callbacks=list(callbacks),
        )
        if config.cache_reference:
            key = reference_key(work, pairs, terms)
            trainer.use_reference(reference_cache.table(trainer, collator, [*train, *validation], key))
        stage.fit(trainer, work)
        return stage.publish(trainer, work)


def reference_key(work: Stage, pairs: PairSet, terms: Terms) -> tuple[str, ...]:
    """All that the reference's log-probabilities depend on."""
    folder = work.folder
    prompts = [prompt.id for prompt in (pairs.prompts.focus, pairs.prompts.answer)]
    dtype = str(models.compute_dtype(work.config))
    return (
        folder.digest, folder.weights.digest, pairs.digest, pairs.crop_rule.name, str(terms.response_crop),
        *prompts, str(work.max_pixels), dtype,
    )  # fmt: skip


class PreferenceTrainer(stage.ours(DPOTrainer)):  # type: ignore[misc]  # a base class that is made at run time
    """TRL's trainer with the loss of this file. A batch is what PairCollator makes."""

    def __init__(self, terms: Terms, **options: Any) -> None:
        super().__init__(**options)
        self.terms = terms

    def use_reference(self, table: reference_cache.Table) -> None:
        """Take the reference's log-probabilities from a table; the reference model is let go."""
        collator: Any = self.data_collator
        self.data_collator: Any = dataclasses.replace(collator, reference=table)
        self.ref_model = None

    def _compute_loss(self, model: Any, inputs: dict[str, torch.Tensor], return_outputs: bool = False) -> torch.Tensor:
        """Rows of a batch: P boxes and Q responses of the wins, then of the loses. Tensors below: (P + Q,)."""
        inputs = dict(inputs)
        pairs = len(inputs.pop("has_response"))
        cached = [inputs.pop(name) for name in ("ref_chosen_logps", "ref_rejected_logps") if name in inputs]
        win, lose = self._log_probs(model, inputs)
        ref_win, ref_lose = cached or self.compute_ref_log_probs(self.ref_model or self.model, inputs)
        beta = torch.full_like(win, self.terms.beta_r)
        beta[:pairs] = self.terms.beta_b
        reward_win, reward_lose = beta * (win - ref_win), beta * (lose - ref_lose)
        losses = -F.logsigmoid(reward_win - reward_lose)
        if self.terms.win_nll:
            losses = losses - self.terms.win_nll * win / branches.lengths(inputs).chunk(2)[0]
        for step, rows in zip(STEPS, (slice(0, pairs), slice(pairs, None)), strict=True):
            self._note(step, losses[rows], reward_win[rows], reward_lose[rows])
        return (self.terms.lambda_b * losses[:pairs].sum() + self.terms.lambda_r * losses[pairs:].sum()) / pairs

    def _log_probs(self, model: Any, inputs: dict[str, torch.Tensor]) -> tuple[torch.Tensor, ...]:
        """log pi of each completion under the policy, summed over its tokens: of the wins, of the loses."""
        given = {name: value for name, value in inputs.items() if name not in ("completion_mask", "completions")}
        labels = inputs["input_ids"].masked_fill(inputs["completion_mask"] == 0, -100)
        made = model(**given, labels=labels, use_cache=False, fused_lm_head=True)
        summed: tuple[torch.Tensor, ...] = branches.sums(made.log_probs, inputs.get("completions")).chunk(2)
        return summed

    def compute_ref_log_probs(self, model: Any, inputs: dict[str, torch.Tensor]) -> tuple[torch.Tensor, ...]:
        """TRL's own, which sums what it takes for the tokens of a row."""
        inputs = dict(inputs)
        completions = inputs.pop("completions", None)

        def forward(**given: Any) -> Any:
            summed = branches.sums(model(**given).log_probs, completions)
            return SimpleNamespace(log_probs=summed[:, None])

        found: tuple[torch.Tensor, ...] = super().compute_ref_log_probs(forward, inputs)
        return found

    @torch.no_grad()
    def _note(self, step: str, losses: torch.Tensor, win: torch.Tensor, lose: torch.Tensor) -> None:
        """Means over the rows of all devices, apart for each step of the path; no row, no number."""
        rows = torch.stack([losses, win, lose, win - lose, (win > lose).float(), torch.ones_like(win)]).float()
        *sums, count = self.accelerator.reduce(rows.sum(dim=1), "sum").tolist()
        if count:
            names = ("loss", "reward_win", "reward_lose", "margin", "accuracy")
            noted = self._metrics["train" if self.model.training else "eval"]
            for name, total in zip(names, sums, strict=True):
                noted[f"{step}/{name}"].append(total / count)
