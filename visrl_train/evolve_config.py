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

    rounds: int = option(2, "Rounds; each makes pairs, trains, and evaluates the new model.", low=1, panel="Rounds")
    stages: str = option(
        "rl1,rl2", "Training stages of a round: the box alone, or also box and response.", choices=("rl1", "rl1,rl2")
    )
    restart: bool = option(False, "Train each round from the first model instead of the previous round's.")
    fresh: bool = option(False, "Use new questions each round: the next --limit rows; default: the same questions.")
    train_config: str | None = option(
        None, "TOML file or preset of training options; default: the preset of the original model."
    )
    eval_source: str | None = option(None, "Questions to evaluate on; default: the --source.", panel="Evaluation")
    eval_split: str = option("test", "Split to evaluate on.")
    eval_limit: int | None = option(None, "Use the first N of these; default: all, and 200 of spotlight.", low=1)
    score: str = option("normalized", "Score of the answers.", choices=SCORES)

    def __post_init__(self) -> None:
        object.__setattr__(self, "score", OLD_NAMES.get(self.score, self.score))
        for spec in dataclasses.fields(self):
            check_option(spec, getattr(self, spec.name))
