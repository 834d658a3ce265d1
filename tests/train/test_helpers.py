"""What the tests of training share: a scripted run, a chain of small models, and a look inside a training."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import scripted_reply
from visrl_data.core.config import GenConfig
from visrl_data.engines.protocol import Role
from visrl_data.engines.scripted import ScriptedEngine
from visrl_data.executors import generation

# One pass of few, large steps: enough to see something move.
QUICK = {"epochs": 1, "batch_size": 4, "accumulation": 1, "learning_rate": 1e-3, "validation": 0.0, "warmup": 0.0}


def make_run(folder: Path, limit: int = 24, **options: Any) -> Path:
    """A finished run of drawn questions, by dice; boxes as Spotlight writes them, crops as it sees them."""
    engine = ScriptedEngine(scripted_reply)
    config = GenConfig(limit=limit, crop_max_aspect=1.0, box_win=0.5, box_lose=0.4, **options)
    return generation.generate(config, folder, roles=(Role(engine, True), Role(engine, False))).path


@pytest.fixture(scope="session")
def scripted_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "drawn")


@pytest.fixture(scope="session")
def sft_model(untrained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The adapter that SFT makes of the untrained base."""
    from visrl_train import sft
    from visrl_train.config import SftConfig

    config = SftConfig(model=str(untrained), limit=8, **{**QUICK, "batch_size": 8})
    return sft.train(config, tmp_path_factory.mktemp("models") / "sft")


def digest(parameters: dict[str, Any]) -> str:
    total = hashlib.sha256()
    for name, value in sorted(parameters.items()):
        total.update(name.encode() + value.detach().float().numpy().tobytes())
    return total.hexdigest()


@dataclass
class Seen:
    """What a training did to its parameters: digests before and after, by part; and the trainer."""

    before: dict[str, str] = field(default_factory=dict)
    after: dict[str, str] = field(default_factory=dict)
    trainer: Any = None

    @property
    def logs(self) -> list[dict[str, float]]:
        return self.trainer.state.log_history


def parts(trainer: Any) -> dict[str, str]:
    """Digests of the trained parameters, the rest of the policy, and the reference."""
    named = dict(trainer.model.named_parameters())
    reference = {n: p for n, p in named.items() if ".ref." in n} or dict(
        trainer.ref_model.named_parameters() if getattr(trainer, "ref_model", None) else {}
    )
    trained = {n: p for n, p in named.items() if p.requires_grad}
    rest = {n: p for n, p in named.items() if n not in trained and ".ref." not in n}
    return {"trained": digest(trained), "rest": digest(rest), "reference": digest(reference)}


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Seen:
    """Filled by the next training."""
    from visrl_train import trainers

    found, fit = Seen(), trainers.fit

    def watched(trainer: Any, work: Any) -> None:
        found.trainer, found.before = trainer, parts(trainer)
        fit(trainer, work)
        found.after = parts(trainer)

    monkeypatch.setattr(trainers, "fit", watched)
    return found
