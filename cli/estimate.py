"""`visrl gen --estimate`: calls, tokens and hours before anything is spent."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from visrl_data.core.config import GenConfig
from visrl_data.core.metrics import METRICS
from visrl_data.core.text import quantity

from .console import hide_library_bars, print_result, say

if TYPE_CHECKING:
    from visrl_data.runs.run_folder import Run


def print_estimate(config: GenConfig, target: Path, speed: float | None, as_json: bool) -> None:
    """Estimate a run from a given speed, or by timing its first chunk, which is kept for the run."""
    numbers = _from_speed(config, speed) if speed else _from_first_chunk(config, target)
    if as_json:
        print(json.dumps(numbers))
        return
    from visrl_data.report.tables import drop_lines

    hours = numbers["hours"]
    time_text = f"{hours:.1f} hours" if hours >= 1 else f"{max(hours * 60, 0.1):.1f} minutes"
    parts = ", ".join(f"{name} {rows}" for name, rows in numbers.get("parts", {}).items())
    questions = quantity(numbers["questions"], "question") + (f" ({parts})" if parts else "")
    print_result(f"{questions}, at most {quantity(numbers['calls'], 'model call')}, about {time_text}.")
    if numbers.get("dropped"):
        rows = quantity(numbers["measured_questions"], "row")
        print_result(f"Dropped: {sum(numbers['dropped'].values())} of the first {rows}.")
        print_result("\n".join(drop_lines(numbers["drop_examples"])))
    if "prompt_tokens" in numbers:
        cached = numbers.get("cached_prompt_tokens")
        hits = "" if cached is None else f" ({cached / max(numbers['prompt_tokens'], 1):.0%} of them cached)"
        print_result(
            f"About {numbers['prompt_tokens']:,} prompt{hits} and {numbers['completion_tokens']:,} completion tokens, "
            f"estimated from the first {quantity(numbers['measured_questions'], 'question')}, kept in {target}."
        )


def _calls_per_question(config: GenConfig) -> int:
    """Return the most calls of a question: two boxes and responses an attempt, and their verdicts by each critic."""
    critics = int(config.box_critic) + int(config.response_critic not in METRICS)
    return 2 * (config.max_attempts or config.attempts) * (2 + critics)


def _from_speed(config: GenConfig, speed: float) -> dict[str, Any]:
    rows = _count_rows(config)
    calls = rows["questions"] * _calls_per_question(config)
    return rows | {"calls": calls, "hours": round(calls / speed / 3600, 6)}


def _count_rows(config: GenConfig) -> dict[str, Any]:
    """Count the rows of the source, and of each part of a mix."""
    from visrl_data.pipeline.factory import open_questions

    ids = open_questions(config).ids()
    if not config.source.startswith("mix:"):
        return {"questions": len(ids)}
    return {"questions": len(ids), "parts": dict(sorted(Counter(name.partition("/")[0] for name in ids).items()))}


def _from_first_chunk(config: GenConfig, target: Path) -> dict[str, Any]:
    from visrl_data.executors import generation
    from visrl_data.runs import run_folder

    hide_library_bars()
    rows = _count_rows(config)
    new = 0 if run_folder.times(run_folder.Run(target)) else 1
    if new:
        say(f"Loading models and timing the first {config.chunk_size} questions")
    generation.generate(config, target, max_chunks=new)  # where a run was started: checks that it is this one
    records = run_folder.times(run_folder.Run(target))
    size, total = config.chunk_size, rows["questions"]
    measured = sum(min(size, total - record["chunk"] * size) for record in records) or 1

    def scaled(name: str) -> float:
        return float(sum(record[name] for record in records) / measured * total)

    return rows | {
        "calls": total * _calls_per_question(config),
        "measured_questions": measured,
        **{
            name: round(scaled(name))
            for name in ("prompt_tokens", "cached_prompt_tokens", "completion_tokens")
            if all(name in record for record in records)
        },
        "hours": round(scaled("seconds") / 3600, 6),
        **_drops(run_folder.Run(target)),
    }


def _drops(run: Run) -> dict[str, Any]:
    """Count the rows that were dropped at the source so far, by reason, with an example of each."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    from visrl_data.report.accounting import drop_examples, value_counts

    chunks = sorted(run.path.glob("work/chunk-*/drops.parquet"))
    drops = pa.concat_tables([pq.read_table(file) for file in chunks] or [run.table("drops")])
    drops = drops.filter(pc.equal(drops["stage"], "source"))
    return {"dropped": value_counts(drops["reason"]), "drop_examples": drop_examples(drops)}
