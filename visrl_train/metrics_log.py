"""Metrics of a training: a line on the console and in metrics.jsonl at each logged step, and curves as a picture."""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from visrl_data.report.charts import Panel, Series, draw_svg

SHOWN = ("loss", "eval_loss", "focus/margin", "focus/accuracy", "response/margin", "response/accuracy",
         "mean_token_accuracy", "rewards/margins", "reward", "learning_rate")  # fmt: skip


class MetricsLog(TrainerCallback):
    """Appends to metrics.jsonl. A training that goes on from a checkpoint first drops the lines after it."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
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
    """The records; a line cut short by a kill is skipped."""
    records = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        with contextlib.suppress(ValueError):
            records.append(json.loads(line))
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
