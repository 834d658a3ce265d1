"""Metrics of a training: a line on the console and in metrics.jsonl at each logged step, and curves as a picture."""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

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


_WIDTH, _HEIGHT, _PAD = 360, 200, 40
_COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd")


def curves(metrics: Path) -> str:
    """An SVG with one small chart each for loss, margins, rewards and accuracies, over the steps."""
    records = read_metrics(metrics)
    charts = {
        "loss": ["loss", "eval_loss"],
        "reward margin": [f"{side}{step}/margin" for step in ("focus", "response") for side in ("", "eval_")]
        + ["rewards/margins", "eval_rewards/margins"],
        "reward": ["reward", "eval_reward"],
        "accuracy": [f"{side}{step}/accuracy" for step in ("focus", "response") for side in ("", "eval_")]
        + ["mean_token_accuracy", "eval_mean_token_accuracy"],
    }
    drawn: list[str] = []
    for title, names in charts.items():
        lines = {name: [(r["step"], r[name]) for r in records if name in r] for name in names}
        lines = {name: points for name, points in lines.items() if points}
        if lines:
            drawn.append(_chart(title, lines, len(drawn) * _WIDTH))
    width = _WIDTH * max(1, len(drawn))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{_HEIGHT + 60}" '
        f'font-family="sans-serif" font-size="11"><rect width="100%" height="100%" fill="white"/>'
        + "".join(drawn)
        + "</svg>\n"
    )


def _chart(title: str, lines: dict[str, list[tuple[float, float]]], left: int) -> str:
    points = [point for line in lines.values() for point in line]
    (x0, x1), (y0, y1) = ((min(axis), max(axis)) for axis in zip(*points, strict=True))
    x1, y1 = (end if end > start else start + 1 for start, end in ((x0, x1), (y0, y1)))

    def place(x: float, y: float) -> str:
        across = left + _PAD + (x - x0) / (x1 - x0) * (_WIDTH - 1.5 * _PAD)
        return f"{across:.1f},{_HEIGHT - _PAD - (y - y0) / (y1 - y0) * (_HEIGHT - 2 * _PAD):.1f}"

    parts = [f'<text x="{left + _PAD}" y="20" font-weight="bold">{title}</text>']
    parts += [
        f'<text x="{left + 2}" y="{_HEIGHT - _PAD}">{y0:.3g}</text><text x="{left + 2}" y="{_PAD}">{y1:.3g}</text>'
    ]
    parts += [f'<text x="{left + _PAD}" y="{_HEIGHT - 20}">step {x0:g} to {x1:g}</text>']
    for i, (name, line) in enumerate(lines.items()):
        colour = _COLOURS[i % len(_COLOURS)]
        path = " ".join(place(*point) for point in line)
        parts.append(f'<polyline fill="none" stroke="{colour}" stroke-width="1.5" points="{path}"/>')
        parts.append(f'<text x="{left + _PAD}" y="{_HEIGHT + 14 * i}" fill="{colour}">{name}</text>')
    return "".join(parts)
