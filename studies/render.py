"""Render RESULTS.md from results/*.json: python -m studies.render [--check] [--results DIR] [--output FILE]

Every number is computed; the text around them is template.md. A table is there when its cells are, of however many
seeds. --check: exit with 1 when the file is out of date.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import jinja2

from studies import claims, loses, paper, tables, values
from studies.methods import CHOSEN_ON, MORE_QUESTIONS, QUESTIONS, TESTED, TESTED_STAGES
from studies.workspace import RESULTS

ROOT = RESULTS.parent
SIZES = {
    "questions": QUESTIONS, "more_questions": MORE_QUESTIONS, "lose_questions": loses.QUESTIONS,
    "tested": TESTED, "tested_stages": TESTED_STAGES, "chosen_on": CHOSEN_ON,
}  # fmt: skip


def render(results: Path) -> str:
    """Return the text of RESULTS.md."""
    cells = values.load(results)
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True, trim_blocks=True)
    template = environment.from_string((Path(__file__).parent / "template.md").read_text(encoding="utf-8"))
    seeds = sorted({seed for seeds in cells.values() for seed in seeds})
    modules = {"tables": tables, "claims": claims, "paper": paper, "count": values.count, "percent": values.percent}
    made = values.by_torch(results)
    return template.render(cells=cells, seeds=seeds, made=made, **modules, **SIZES)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the cells")
    parser.add_argument("--output", type=Path, default=ROOT / "RESULTS.md", help="file to write, or to check")
    args = parser.parse_args()
    text, path = render(args.results), args.output
    if not args.check:
        path.write_text(text, encoding="utf-8")
    elif not path.exists() or path.read_text(encoding="utf-8") != text:
        sys.exit(f"{path} is out of date. Run the same command without --check.")


if __name__ == "__main__":
    main()
