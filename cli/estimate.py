"""`visrl gen --estimate`: calls, tokens and hours before anything is spent."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from .console import hush_libraries, say


def print_estimate(config: Any, target: Path, speed: float | None, as_json: bool) -> None:
    """From a stated speed, or from the first chunk, timed for real; that chunk is kept for the run."""
    numbers = _stated(config, speed) if speed else _timed(config, target)
    if as_json:
        print(json.dumps(numbers))
        return
    hours = numbers["hours"]
    time_text = f"{hours:.1f} hours" if hours >= 1 else f"{max(hours * 60, 0.1):.1f} minutes"
    parts = ", ".join(f"{name} {rows}" for name, rows in numbers.get("parts", {}).items())
    questions = f"{numbers['questions']} questions" + (f" ({parts})" if parts else "")
    print(f"{questions}, at most {numbers['calls']:,} model calls, about {time_text}.")
    if "prompt_tokens" in numbers:
        print(
            f"About {numbers['prompt_tokens']:,} prompt and {numbers['completion_tokens']:,} completion tokens, "
            f"from {numbers['measured_questions']} questions timed; they are kept in {target}."
        )


def _calls_each(config: Any) -> int:
    """A question's most calls: 2N boxes and responses by the actor, as many verdicts by each critic."""
    critics = int(config.box_critic) + int(config.response_critic == "model")
    return 2 * int(config.attempts) * (2 + critics)


def _stated(config: Any, speed: float) -> dict[str, Any]:
    rows = _rows(config)
    calls = rows["questions"] * _calls_each(config)
    return rows | {"calls": calls, "hours": round(calls / speed / 3600, 4)}


def _rows(config: Any) -> dict[str, Any]:
    """The rows of the source, and of a mix those of each part."""
    from visrl_data.pipeline.factory import open_questions

    ids = open_questions(config).ids()
    if not config.source.startswith("mix:"):
        return {"questions": len(ids)}
    return {"questions": len(ids), "parts": dict(sorted(Counter(name.partition("/")[0] for name in ids).items()))}


def _timed(config: Any, target: Path) -> dict[str, Any]:
    from visrl_data.executors import generation
    from visrl_data.runs import run_folder

    hush_libraries()
    rows = _rows(config)
    new = 0 if run_folder.times(run_folder.Run(target)) else 1
    if new:
        say(f"Loading models, then timing the first {config.chunk_size} questions")
    generation.generate(config, target, max_chunks=new)  # where a run was begun: sees that it is this one
    records = run_folder.times(run_folder.Run(target))
    size, total = config.chunk_size, rows["questions"]
    measured = sum(min(size, total - record["chunk"] * size) for record in records) or 1

    def scaled(name: str) -> float:
        return float(sum(record[name] for record in records) / measured * total)

    return rows | {
        "calls": total * _calls_each(config),
        "measured_questions": measured,
        "prompt_tokens": round(scaled("prompt_tokens")),
        "completion_tokens": round(scaled("completion_tokens")),
        "hours": round(scaled("seconds") / 3600, 4),
    }
