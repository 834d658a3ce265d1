"""The options of `visrl evolve` besides those of `visrl gen`, which every round shares."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from visrl_data.core.config import check_option, option
from visrl_data.core.metrics import OLD_NAMES
from visrl_data.evaluation.config import SCORES


@dataclass(frozen=True, slots=True, kw_only=True)
class EvolveConfig:
    """How rounds follow each other. Raises UsageError when a value is out of its range."""

    rounds: int = option(2, "Rounds: each makes pairs, trains, and measures the new model.", low=1, panel="Rounds")
    stages: str = option(
        "rl1,rl2", "What a round trains: the box alone, or then box and response.", choices=("rl1", "rl1,rl2")
    )
    restart: bool = option(False, "Train each round from the first model, in place of the last round's.")
    fresh: bool = option(False, "New questions each round: the next --limit rows; default: the same ones again.")
    train_config: str | None = option(
        None, "TOML file or preset with the options of training; default: the preset of the original model."
    )
    eval_source: str | None = option(None, "Questions to measure on; default: the --source.", panel="Measuring")
    eval_split: str = option("test", "Split to measure on.")
    eval_limit: int | None = option(None, "First N of them only; default: all, and 200 of spotlight.", low=1)
    score: str = option("normalized", "Score of the answers.", choices=SCORES)

    def __post_init__(self) -> None:
        object.__setattr__(self, "score", OLD_NAMES.get(self.score, self.score))
        for spec in dataclasses.fields(self):
            check_option(spec, getattr(self, spec.name))
