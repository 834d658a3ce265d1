"""RL1: learn where to look (paper, Sec. 3.2, Eq. 5-6).

DPO on the focus box alone. For each pair the model sees the image and the question with the focus request;
the box text of the win is chosen, that of the lose rejected. The reference is a frozen copy of the initial model.

    loss = -log sigma( beta_B ( log pi(b_w|x,I)/pi_ref(b_w|x,I) - log pi(b_l|x,I)/pi_ref(b_l|x,I) ) )

Departures from the paper: the adapter of the SFT stage is trained further instead of being merged (one adapter on the
original weights through all stages, so that the critic is the same model with the adapter off); the validation split
is by image, so that no image is on both sides.

    visrl train rl1                                     the latest run in runs/, and the actor that made it
    visrl train rl1 --data runs/cars -o models/cars-rl1
    accelerate launch --num_processes 8 -m visrl_train.rl1 --data runs/cars -o models/cars-rl1
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from visrl_data.core.errors import VisRLError
from visrl_data.core.prompts import Prompt
from visrl_data.models.model_folder import ModelFolder, find_model
from visrl_train.config import PairsConfig, Rl1Config
from visrl_train.pairs import PairSet, read_pairs

if TYPE_CHECKING:
    from transformers import TrainerCallback

    from visrl_train.stage_folder import TrainingStage


def train(config: Rl1Config, output: Path | None = None, callbacks: Sequence[TrainerCallback] = ()) -> Path:
    """Run the stage and return the model's folder. An interrupted stage resumes."""
    from visrl_train.preference import LossConfig, train_pairs

    pairs = read_pairs(config.data)
    trust = config.trust_remote_code
    folder = find_actor(pairs, trust) if config.model is None else find_model(config.model, trust)
    stage = prepare("rl1", config, pairs, folder, output)
    return train_pairs(stage, config, pairs, LossConfig(beta_b=config.beta_b, win_nll=config.win_nll), callbacks)


def find_actor(pairs: PairSet, trust_remote_code: bool = False) -> ModelFolder:
    """Find the model that made the pairs. Raises VisRLError when there is none, or when it has changed since."""
    if pairs.actor is None:
        which = "were made by different models" if pairs.parts else "do not say which model made them"
        raise VisRLError(f"The pairs of {pairs.name} {which}. Name the one to train with --model.")
    try:
        folder = find_model(pairs.actor, trust_remote_code)
    except VisRLError as error:
        raise VisRLError(f"{error}\n{pairs.name} was made by it; name the model to train with --model.") from error
    if pairs.actor_digest != folder.digest:
        raise VisRLError(
            f"The pairs of {pairs.name} were made by {pairs.actor}, whose files have changed since. "
            "Make a new run, or name the model to train with --model."
        )
    return folder


def prepare(
    name: str,
    config: PairsConfig,
    pairs: PairSet,
    folder: ModelFolder,
    output: Path | None,
    prompts: Sequence[Prompt] | None = None,
) -> TrainingStage:
    """Return the stage. Raises VisRLError when model and pairs differ in box space, crop rule or shown pictures.

    prompts: those that the model learns to reply to; default: those of the pairs.
    """
    from visrl_train.image_settings import choose_images
    from visrl_train.stage_folder import TrainingStage, default_output

    for what, of_model, of_pairs in (
        ("box space", folder.box_space, pairs.box_space),
        ("crop rule", folder.crop_rule, pairs.crop_rule),
    ):
        if of_model is not None and of_model != of_pairs:
            raise VisRLError(
                f"{folder.id} was trained with {what} {of_model}, the pairs of {pairs.name} were made with {of_pairs}. "
                f"Train a model with the same {what}, or make new pairs with this one."
            )
    config = dataclasses.replace(config, data=pairs.data, model=folder.id)  # with the defaults resolved
    return TrainingStage(
        name=name,
        config=config,
        output=output or default_output(name, pairs.short_name, config, pairs.digest, folder.digest),
        folder=folder,
        data=pairs.record(),
        prompts={prompt.id: prompt.template for prompt in prompts or (pairs.prompts.focus, pairs.prompts.answer)},
        box_space=pairs.box_space,
        crop_rule=pairs.crop_rule,
        image_settings=choose_images(name, config, pairs, folder),
    )


if __name__ == "__main__":
    from visrl_train.launch import main

    main("rl1")
