"""Write the section of a model card that serves people without visrl: inference on plain transformers, as code.

The code holds what the model was trained with: its prompts, the form in which it writes boxes, the crop rule. A test
runs it as it stands on the card, and compares its boxes and crops with those of visrl.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import jinja2

from visrl_data.core import box_formats
from visrl_data.core.boxes import make_frame, needs_resized_size
from visrl_data.core.prompts import DIRECT, Prompt, PromptPart, recorded_prompts
from visrl_data.core.text import Markdown, fenced, markdown
from visrl_data.models.model_folder import ModelRecord
from visrl_data.runs.hub_fetch import is_hub_name

HEADING = "## Use it without visrl"
INSTALL = "pip install torch transformers peft pillow"
_NUMBER = r"(\d*\.?\d+)"
_POINT = rf"\(\s*{_NUMBER}\s*,\s*{_NUMBER}\s*\)"
_LIST = r"\[\s*" + r"\s*,\s*".join([_NUMBER] * 4) + r"\s*\]"
_PATTERNS = {
    box_formats.POINTS: rf"{_POINT}\s*,\s*{_POINT}",
    box_formats.TAGGED: r"\s+".join([_NUMBER] * 4),
    box_formats.LOCS: r"\s*".join([r"<loc(\d{4})>"] * 4),
}


def describe_usage(record: ModelRecord, model: str, revision: str | None) -> Markdown:
    """Return the section. model, revision: where the model lies, a folder or a repository of the Hub.

    An adapter on weights that nobody else has gets the two ways to publish it in place of the code.
    """
    base = record.get("base")
    if base is not None and not is_hub_name(base["id"]):
        return Markdown(f"{HEADING}\n\n{_ONLY_HERE.format(base=markdown(Path(base['id']).name))}")
    install = fenced(INSTALL, "bash")
    return Markdown(f"{HEADING}\n\n{install}\n\n{fenced(usage_code(record, model, revision), 'python')}")


_ONLY_HERE = """\
Nobody else can load this adapter as it is: the model under it, {base}, is not on the Hub. Publish the merged model
(`visrl merge` writes it, with the code to use it on its card), or publish the model under it along with the
adapter: `visrl push --with-base`."""


def usage_code(record: ModelRecord, model: str, revision: str | None) -> str:
    """Return the inference as a Python script: both steps, or the one of a model that answers at once."""
    base = record.get("base")
    name, _, commit = (base or {"id": ""})["id"].partition("@")
    values = {
        "model": model, "revision": revision, "base": name, "base_revision": commit or None,
        "two_steps": record.get("steps", 2) == 2, **_prompts(record), **_box(record),
    }  # fmt: skip
    return _environment().get_template("two_steps.py.j2").render(values).strip()


def _prompts(record: ModelRecord) -> dict[str, str]:
    recorded = record.get("prompts", {}).items()
    prompts = recorded_prompts({prompt: text for prompt, text in recorded if not prompt.startswith("direct@")})
    templates = {"focus": prompts.focus, "answer": prompts.answer, "direct": Prompt("direct", DIRECT)}
    return {name: _arguments(prompt.parts(question="\0")) for name, prompt in templates.items()}


def _arguments(parts: tuple[PromptPart, ...]) -> str:
    """Write a prompt as the arguments of `ask`; a NUL in its texts stands for the question."""
    return ", ".join(part.kind if part.kind != "text" else _expression(part.text) for part in parts)


def _expression(text: str) -> str:
    pieces = [piece if piece == "\0" else repr(piece) for piece in re.split("(\0)", text) if piece]
    return " + ".join("question" if piece == "\0" else piece for piece in pieces)


def _box(record: ModelRecord) -> dict[str, Any]:
    space, rule = record["box_space"], record["crop_rule"]
    form = make_frame(space, (1000, 1000), (1000, 1000)).format
    lattice, note = _lattice(space)
    return {
        "pattern": _PATTERNS.get(form, _LIST),
        "order": ", ".join(re.findall("[xy][12]", form.template)),
        "lattice": lattice,
        "space_note": note,
        "min_side": rule["min_side"],
        "max_aspect": rule["max_aspect"],
    }


def _lattice(space: str) -> tuple[str, str]:
    """Return the kind of numbers that a box space has, and what they count."""
    if needs_resized_size(space):
        return "pixels", "the model writes pixels of the image as its processor resizes it"
    kinds = {
        "unit": ("decimals", "the model writes these fractions"),
        "unit_padded_square": ("padded", "the model writes fractions of the image padded to a square"),
        "paligemma_loc": ("locs", "the model writes 1023rds, y first"),
        "per_mille_yx_json": ("thousandths", "the model writes thousandths, y first"),
    }
    return kinds.get(space, ("thousandths", "the model writes thousandths"))


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), undefined=jinja2.StrictUndefined, autoescape=False
    )
    environment.filters |= {"repr": repr, "raw": lambda pattern: f'r"{pattern}"'}
    return environment
