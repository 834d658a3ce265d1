"""Render RESULTS.md from results/*.json: python -m studies.render [--check]

Every number is computed; the text around them is template.md. --check: exit with 1 when RESULTS.md is out of date.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import jinja2

from studies import tables
from studies.methods import QUESTIONS, TESTED, TESTED_STAGES

ROOT = Path(__file__).parent.parent
SIZES = {"questions": QUESTIONS, "tested": TESTED, "tested_stages": TESTED_STAGES}
FIRST_SIZES = {"questions": 400, "tested": 500, "tested_stages": 2000}
"""Sizes of the cells of the first edition of the weights."""


def render(results: Path) -> str:
    """Return the text of RESULTS.md."""
    cells = tables.load(results)
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True, trim_blocks=True)
    template = environment.from_string((Path(__file__).parent / "template.md").read_text(encoding="utf-8"))
    seeds = sorted({seed for seeds in cells.values() for seed in seeds})
    first = tables.is_first_edition(results)
    return template.render(tables=tables, cells=cells, seeds=seeds, first=first, **(FIRST_SIZES if first else SIZES))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    text, path = render(ROOT / "results"), ROOT / "RESULTS.md"
    if not args.check:
        path.write_text(text, encoding="utf-8")
    elif not path.exists() or path.read_text(encoding="utf-8") != text:
        sys.exit("RESULTS.md is out of date. Run: python -m studies.render")


if __name__ == "__main__":
    main()
