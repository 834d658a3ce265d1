"""Put the actor's invalid replies in place of the losing boxes of a run, which is changed where it lies: a trial.

    cp -r RUN COPY && python -m studies.invalid COPY

Where the actor's reply named no valid box (none, several, a reversed one, ...), the controller put a box of its own in
the slot, and the candidate recorded the reply. A pair whose question has such a reply gets the first of them as its
rejected reply at the box step, all else stays: its response is trained with the crop of the win. `visrl train` reads
the folder like any run; its page and report are those of the pairs before.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from visrl_data.core import files
from visrl_data.runs import run_folder
from visrl_data.runs.run_folder import Run


def put_invalid_loses(path: Path) -> int:
    """Change the pairs of a finished run; return how many have an invalid reply as their lose."""
    run = Run(path)
    run_folder.check_files(run)
    replies, pairs = invalid_replies(run), run.pairs()
    ids, loses = (pairs[name].to_pylist() for name in ("question_id", "lose_box_text"))
    texts = [replies.get(question, lose) for question, lose in zip(ids, loses, strict=True)]
    place = pairs.schema.get_field_index("lose_box_text")
    files.write_table(path / "pairs.parquet", pairs.set_column(place, pairs.schema.field(place), [texts]))
    manifest = run.manifest()
    manifest["sha256"] |= run_folder.digests(run, ["pairs.parquet"])
    files.write_json(run.manifest_path, manifest)
    return sum(question in replies for question in ids)


def invalid_replies(run: Run) -> dict[str, str]:
    """Return the first reply of each question that names no valid box and is not empty, as the model wrote it."""
    columns = ["question_id", "index", "focus_reply", "focus_state"]
    rows = sorted(run.table("candidates", columns).to_pylist(), key=lambda row: row["index"], reverse=True)
    return {row["question_id"]: row["focus_reply"] for row in rows if row["focus_state"] != "ok" and row["focus_reply"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    run = parser.parse_args().run
    print(f"{run}: {put_invalid_loses(run)} pairs have an invalid reply as their lose")


if __name__ == "__main__":
    main()
