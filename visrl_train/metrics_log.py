"""Log the metrics of a training to the console and to metrics.jsonl, and draw them as curves."""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from visrl_data.report.charts import Panel, Series, draw_svg

SHOWN = ("loss", "eval_loss", *(f"{step}/{name}" for step in ("focus", "response")
         for name in ("dpo", "nll", "margin", "accuracy")),
         "mean_token_accuracy", "rewards/margins", "reward", "learning_rate")  # fmt: skip

# Names that earlier versions wrote; their trainings can be resumed.
_RENAMED = {
    f"{mode}{step}/{before}": f"{mode}{step}/{now}"
    for mode in ("", "eval_")
    for step in ("focus", "response")
    for before, now in (("reward_win", "reward_chosen"), ("reward_lose", "reward_rejected"))
}


class MetricsLog(TrainerCallback):
    """Appends to metrics.jsonl. A training that resumes from a checkpoint says so, and drops the lines after it."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.is_world_process_zero and state.global_step:
            print(f"Resuming from step {state.global_step} of {state.max_steps}", file=sys.stderr, flush=True)
        if state.is_world_process_zero and self._path.is_file():
            kept = [record for record in read_metrics(self._path) if record["step"] <= state.global_step]
            self._path.write_text("".join(json.dumps(record) + "\n" for record in kept), encoding="utf-8")

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        if not state.is_world_process_zero or not logs:
            return
        record = {"step": state.global_step, **logs}
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        shown = "  ".join(f"{name} {logs[name]:.4g}" for name in _shown(logs))
        if shown:
            print(f"step {state.global_step}/{state.max_steps}  {shown}", file=sys.stderr, flush=True)


def _shown(logs: dict[str, Any]) -> list[str]:
    return [name for name in logs if name.removeprefix("eval_") in SHOWN or name in SHOWN]


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Read the records, by the names of today; a line cut short by a kill is skipped."""
    records = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        with contextlib.suppress(ValueError):
            record = json.loads(line)
            records.append({_RENAMED.get(name, name): value for name, value in record.items()})
    return records


def curves(metrics: Path) -> str:
    """Draw loss, margins, rewards and accuracies over the steps, as an SVG; only those that were logged."""
    records = read_metrics(metrics)
    charts = {
        "loss": ["loss", "eval_loss"],
        "reward margin": [f"{side}{step}/margin" for step in ("focus", "response") for side in ("", "eval_")]
        + ["rewards/margins", "eval_rewards/margins"],
        "reward": ["reward", "eval_reward"],
        "accuracy": [f"{side}{step}/accuracy" for step in ("focus", "response") for side in ("", "eval_")]
        + ["mean_token_accuracy", "eval_mean_token_accuracy"],
    }
    panels = []
    for title, names in charts.items():
        points = {name: [(r["step"], r[name]) for r in records if name in r] for name in names}
        lines = [Series(name, [y for _, y in line], [x for x, _ in line]) for name, line in points.items() if line]
        if lines:
            panels.append(Panel(title, "step", title, tuple(lines)))
    return draw_svg(panels)
