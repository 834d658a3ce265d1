"""Every prompt that a model sees, with its id, and the parser of critics' replies.

Used by actor.py and critics.py. A prompt is a list of parts in reading order: pictures and text. What
several calls share (image, question) comes first, so that an engine can reuse the prefix.

Departures from the paper: the answer turn ends with a request for a short answer (without it an
un-tuned model that has just read the focus request emits another box); the wording of the critics
is ours, their inputs are the paper's (Sec. 3.1): the box critic sees the crop, the question and the
standard answer; the response critic the whole image, the question, the standard answer and the
response.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from visrl_data.core.errors import UsageError
from visrl_data.core.metrics import standard_answers

FOCUS_REQUEST = (
    "Please first provide the bounding box coordinate of the region, "
    "then refer to the corresponding sub-image to answer the question better."
)

# A part of a template: "<image>" and "<crop>" stand for pictures on a line of their own.
FOCUS = "<image>\n{question}\n" + FOCUS_REQUEST
ANSWER = FOCUS + "\n<crop>\nPlease answer with a word or a short phrase, based on the image and this sub-image."
DIRECT = "<image>\n{question}\nPlease answer with a word or a short phrase."  # one step, no box: the baseline of eval
BOX_CRITIC = (
    "<crop>\nQuestion: {question}\nStandard answer: {answer}\n"
    "The picture is a crop of a larger image. Does it show what is needed to reach the standard answer? "
    'Rate it from 0 (nothing) to 1 (everything). Reply only with JSON like {"score": 0.8}, no reasoning.'
)
RESPONSE_CRITIC = (
    "<image>\nQuestion: {question}\nStandard answer: {answer}\nModel answer: {response}\n"
    "How close is the model answer to the standard answer? "
    'Rate it from 0 (wrong) to 1 (the same meaning). Reply only with JSON like {"score": 0.8}, no reasoning.'
)

SCORE_PREFIX = '{"score": '
SCORE_CHOICES = tuple(f"{i / 10:.1f}" for i in range(11))
SCORE_GRAMMAR = r'start: "{\"score\": " /0\.[0-9]|1\.0/ "}"'

_PICTURES = {"<image>": "image", "<crop>": "crop"}
_FIELDS = {
    "focus": {"question"},
    "answer": {"question"},
    "box_critic": {"question", "answer"},
    "response_critic": {"question", "answer", "response"},
}
_PARSERS = {
    "focus": "box/2",
    "answer": "text/1",
    "direct": "text/1",
    "box_critic": "score/2",
    "response_critic": "score/2",
}
_FIELD = re.compile(r"\{(question|answer|response)\}")


@dataclass(frozen=True, slots=True)
class PromptPart:
    """One piece of a user turn. kind: "image", "crop" or "text"; text is empty for pictures.

    kind "reply" ends the turn: its text is what the model answered, and the parts after it are the next turn.
    """

    kind: str
    text: str = ""


@dataclass(frozen=True, slots=True)
class Prompt:
    """A named template. `id` is name @ first 8 hex digits of sha256(template, parser)."""

    name: str
    template: str

    @property
    def id(self) -> str:
        digest = hashlib.sha256(f"{self.template}\0{_PARSERS[self.name]}".encode()).hexdigest()
        return f"{self.name}@{digest[:8]}"

    @property
    def shows_crop(self) -> bool:
        """Whether the crop is among its pictures."""
        return "<crop>" in self.template.split("\n")

    def parts(self, **values: str) -> tuple[PromptPart, ...]:
        """Fill the template. Values are put in once and never read again, so braces, `<image>` or
        other markup inside them stay text.
        """
        parts: list[PromptPart] = []
        lines: list[str] = []

        def flush() -> None:
            if lines:
                parts.append(PromptPart("text", _FIELD.sub(lambda m: values[m[1]], "\n".join(lines))))
                lines.clear()

        for line in self.template.split("\n"):
            if line in _PICTURES:
                flush()
                parts.append(PromptPart(_PICTURES[line]))
            else:
                lines.append(line)
        flush()
        return tuple(parts)


@dataclass(frozen=True, slots=True)
class PromptSet:
    """The four prompts of a run."""

    focus: Prompt = Prompt("focus", FOCUS)
    answer: Prompt = Prompt("answer", ANSWER)
    box_critic: Prompt = Prompt("box_critic", BOX_CRITIC)
    response_critic: Prompt = Prompt("response_critic", RESPONSE_CRITIC)

    def all(self) -> tuple[Prompt, ...]:
        return (self.focus, self.answer, self.box_critic, self.response_critic)


def load_prompts(path: Path | None, defaults: PromptSet | None = None) -> PromptSet:
    """Load the prompts that a model knows (families.py; default: ours), some of them replaced from a TOML file
    (`focus = "..."`).

    Raises UsageError naming the file and the prompt when a name is unknown or a field is missing.
    """
    defaults = defaults or PromptSet()
    if path is None:
        return defaults
    try:
        templates = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"--prompts {path}: no such file. Expected a TOML file of prompts.") from None
    except (OSError, ValueError, RecursionError) as error:  # a folder, no UTF-8, no TOML; lists in lists without end
        raise UsageError(f"--prompts {path}: {error}") from error
    unknown = sorted(set(templates) - set(_FIELDS))
    if unknown:
        raise UsageError(f"{path}: unknown prompt {unknown[0]!r}; expected one of {', '.join(sorted(_FIELDS))}")
    return dataclasses.replace(defaults, **{name: _prompt(path, name, text) for name, text in templates.items()})


def _prompt(path: Path, name: str, template: object) -> Prompt:
    if not isinstance(template, str):
        raise UsageError(f"{path}: prompt {name!r} must be a string, got {type(template).__name__}")
    missing = sorted(_FIELDS[name] - set(_FIELD.findall(template)))
    surplus = sorted(set(_FIELD.findall(template)) - _FIELDS[name])
    picture = "<crop>" if name == "box_critic" else "<image>"
    if missing or surplus:
        raise UsageError(
            f"{path}: prompt {name!r} must hold exactly the fields "
            f"{', '.join('{' + f + '}' for f in sorted(_FIELDS[name]))}; "
            f"missing {missing or 'none'}, not allowed {surplus or 'none'}"
        )
    needed = [picture, "<crop>"] if name == "answer" else [picture]
    pictures = [line for line in template.split("\n") if line in _PICTURES]
    if sorted(pictures) != sorted(needed):
        raise UsageError(
            f"{path}: prompt {name!r} must have its picture {' and '.join(needed)} alone on a line, once, "
            f"and no other; it has {', '.join(pictures) or 'none'}"
        )
    return Prompt(name, template)


_JSON_OBJECT = re.compile(r"\{[^{}]*\}")


def parse_score(reply: str) -> tuple[float | None, str]:
    """Read a critic's reply: (score in [0, 1], "ok"), or (None, reason).

    Strict: exactly one JSON object in the reply, with exactly one number under "score", finite and
    in [0, 1]. Code fences and words around the object are tolerated; a brace of a second object, beside
    it, around it or cut short, is not, since it is unclear which one is meant. Never raises.
    Reasons: no_json, several_json, bad_json, no_score, not_a_number, out_of_range.
    """
    objects = _JSON_OBJECT.findall(reply)
    if not objects:
        return None, "no_json"
    if reply.count("{") > 1 or reply.count("}") > 1:
        return None, "several_json"
    try:
        pairs = json.loads(objects[0], object_pairs_hook=list)
    except (ValueError, RecursionError):  # lists in lists without end
        return None, "bad_json"
    scores = [value for key, value in pairs if key == "score"]
    if len(scores) != 1:
        return None, "no_score" if not scores else "several_json"
    score = scores[0]
    if isinstance(score, bool) or not isinstance(score, (int, float)):
        return None, "not_a_number"
    if isinstance(score, float) and not math.isfinite(score):
        return None, "not_a_number"
    if not 0 <= score <= 1:
        return None, "out_of_range"
    return abs(float(score)), "ok"  # without the sign of -0.0


def standard_answer(answers: tuple[str, ...]) -> str:
    """Return the text shown to a critic: the accepted answers, or of annotators the most frequent answer."""
    return " or ".join(standard_answers(answers))


def recorded_prompts(templates: Mapping[str, str]) -> PromptSet:
    """Return the prompts of a run from the templates that it recorded by id."""
    names = {prompt_id: prompt_id.partition("@")[0] for prompt_id in templates}
    return PromptSet(**{name: Prompt(name, templates[prompt_id]) for prompt_id, name in names.items()})
