"""RL2: learn where to look and what to answer, together (paper, Sec. 3.2, Eq. 7-8).

Starts from the RL1 model; policy and reference are both that model. Each pair gives two examples in one
batch: the focus box as in RL1, and the response to image, question and the crop of the WIN box, the same
context for both responses.

    loss = lambda_B l_B + lambda_R l_R,    l = -log sigma( beta ( h(chosen) - h(rejected) ) )

Departures from the paper: those of rl1.py; a pair whose two responses are the same text trains its box only;
with `--response-crop own` each response is conditioned on the crop of its own box.

    visrl train rl2                                     the latest run, and the latest rl1 model trained on it
    visrl train rl2 --data runs/cars --model models/cars-rl1 -o models/cars-rl2
    visrl train rl2 --data runs/cars --without-rl1      from the actor itself, as in the paper's Table 5
    accelerate launch --num_processes 8 -m visrl_train.rl2 --data runs/cars --model models/cars-rl1 -o DIR
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from visrl_data.core.errors import UsageError, VisRLError
from visrl_data.models.model_folder import RECORD, ModelFolder, find_model, read_record
from visrl_train.config import Rl2Config
from visrl_train.pairs import PairSet, read_pairs
from visrl_train.rl1 import find_actor, prepare

if TYPE_CHECKING:
    from transformers import TrainerCallback


def train(config: Rl2Config, output: Path | None = None, callbacks: Sequence[TrainerCallback] = ()) -> Path:
    """Run the stage and return the model's folder. An interrupted stage resumes."""
    from visrl_train.preference import LossConfig, train_pairs

    pairs = read_pairs(config.data)
    folder = find_start(config, pairs)
    config = dataclasses.replace(config, without_rl1=False)  # prepare() writes the model's name into the config
    loss = LossConfig(
        config.beta_b, config.beta_r, config.lambda_b, config.lambda_r, config.response_crop, config.win_nll
    )
    return train_pairs(prepare("rl2", config, pairs, folder, output), config, pairs, loss, callbacks)


def find_start(config: Rl2Config, pairs: PairSet) -> ModelFolder:
    """Find the model to start from. Raises VisRLError when there is none."""
    trust = config.trust_remote_code
    if config.model is None:
        return find_actor(pairs, trust) if config.without_rl1 else find_rl1_model(pairs, trust)
    if config.without_rl1:
        raise UsageError(
            f"--model {config.model} with --without-rl1: expected one of them. --without-rl1 starts from the actor."
        )
    return find_model(config.model, trust)


def find_rl1_model(pairs: PairSet, trust_remote_code: bool = False) -> ModelFolder:
    """Find the newest model under models/ that `visrl train rl1` trained on these pairs. Raises VisRLError."""
    from visrl_train.stage_folder import MODELS

    models = []
    for path in MODELS.glob(f"*/{RECORD}"):
        record = read_record(path.parent)
        if record.get("stage") == "rl1" and record.get("data", {}).get("manifest_sha256") == pairs.digest:
            models.append(path)
    if not models:
        raise VisRLError(
            f"No rl1 model of the pairs of {pairs.name} under {MODELS}/. Train one with "
            f"`visrl train rl1 {pairs.flags}`, or name the model to start from with --model."
        )
    return find_model(str(max(models, key=lambda path: path.stat().st_mtime_ns).parent), trust_remote_code)


if __name__ == "__main__":
    from visrl_train.launch import main

    main("rl2")
