"""Spotlight: the embedded pair of the product, a small drawn world and a small vision-language model.

`world` makes the questions, from scenes, referring expressions and drawings. `base/` and `actor/` hold the shipped
model, whose recipe is studies/spotlight; injection.json says how far its critics can be persuaded. Importing this
package imports neither torch nor PIL.
"""

from __future__ import annotations

from pathlib import Path

BASE = Path(__file__).parent / "base"
ACTOR = Path(__file__).parent / "actor"
INJECTION = Path(__file__).parent / "injection.json"
MODEL_CARD = Path(__file__).parent / "MODEL_CARD.md"
