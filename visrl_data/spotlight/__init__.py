"""Spotlight: the embedded pair of the product, a small drawn world and a small vision-language model.

`world` draws the scenes, `base/` and `actor/` hold the shipped model, `train` is the recipe that made
it, `measure` the table of what it can do, `injection` that of how its critics can be talked to. Importing
this package imports neither torch nor PIL.
"""

from __future__ import annotations

from pathlib import Path

BASE = Path(__file__).parent / "base"
ACTOR = Path(__file__).parent / "actor"
INJECTION = Path(__file__).parent / "injection.json"
BASE_ID = "spotlight-base"
