"""Spoilt model replies through every parser, each verdict checked by a second reader that shares no code with it.

    python -m tests.tools.fuzz                 100,000 replies, each read in every box space and as a critic's verdict
    python -m tests.tools.fuzz --replies 5000 --seed 7

Replies are such as models write (boxes in every form, verdicts, with words, fences and labels around them), then
spoilt: cut, doubled, swapped, with digits of other scripts, numbers past all range, nested braces, control
characters, halves of surrogate pairs. A parser must not raise, must give a documented state, and what it accepts
must be in the text as whole numbers, in range and in order, and the only one of its kind.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections import Counter
from decimal import Decimal, InvalidOperation
from functools import partial

from visrl_data.core.boxes import SPACES, Frame, make_frame
from visrl_data.core.prompts import parse_score

BOX_STATES = {"ok", "no_box", "several_boxes", "not_finite", "out_of_range", "reversed", "degenerate"}
SCORE_STATES = {"ok", "no_json", "several_json", "bad_json", "no_score", "not_a_number", "out_of_range"}
FRAMES = [make_frame(space, (640, 427), (1036, 700)) for space in SPACES]
AROUND = (
    "{}", "{}.", "The region is {}.", "```json\n{}\n```", "<ref>the cup</ref>{}", "cup{}", "{} cup", "[{}]", "1. {}",
    "Sure! {} Let me know.", '{{"bbox_2d": {}, "label": "cup"}}', "{}<|im_end|>", "<think>[1, 2]</think>\n{}",
    "猫{}", "Answer: {} (score 0.9)", "{}\n{}",
)  # fmt: skip
VERDICTS = (
    '{{"score": {}}}', '{{"score":{}, "why": "it is there"}}', "{}", '{{"Score": {}}}', '{{"score": "{}"}}',
    '{{"score": {0}, "score": {0}}}', '{{"result": {{"score": {}}}, "score": 0.1}}', '[{{"score": {}}}]',
    '{{{{"score": {}}}}}', "{{'score': {}}}", '{{"score": [{}]}}',
)  # fmt: skip
NUMBERS = (
    "0", "1", "0.5", "0.8", ".25", "1.", "-0.0", "+0.3", "00.7", "1e-3", "1E999", "-1e999", "NaN", "Infinity", "-inf",
    "0x1F", "1_0", "1,000", "0.1.2", "1/2", "50%", "true", "null", "9" * 400, "9" * 5000,
    "0." + "3" * 400, "٠.٥", "０.５",
    "\u22120.5", "½", "²", "1e5", "12e1", "--1", "7\u200b7", "3\x004", "[" * 3000, "ⅷ", "१२",
)  # fmt: skip
NOISE = (
    "[", "]", "{", "}", "(", ")", ",", ".", "-", "+", "e", " ", "\n", "\t", "\x00", "\x1b[2J", "\u202e", "\u200f",
    "\ufeff", "\u200b", "\ud800", "\udfff", "\x85", "٣", "5", "7", "<box>", "</box>", "<loc0012>", "<loc",
    "<|box_start|>", "```", '"', "'", "\\", '"score"', ":", "NaN", "<image>", "²", "；", "（", "[]", "{}", "\U0001f600",
    "<|begin_of_box|>", '"box_2d": ',
)  # fmt: skip


def reply(rng: random.Random) -> str:
    """One reply: of a known form most of the time, spoilt by none to four changes."""
    roll = rng.random()
    if roll < 0.55:
        text = rng.choice(AROUND).replace("{{", "{").replace("}}", "}").replace("{}", _box(rng))
    elif roll < 0.9:
        number = rng.choice(NUMBERS) if rng.random() < 0.5 else f"{rng.random():.{rng.randrange(1, 6)}f}"
        text = rng.choice(AROUND).replace("{{", "{").replace("}}", "}").replace("{}", _verdict(rng, number))
    else:
        text = "".join(rng.choice(NOISE) for _ in range(rng.randrange(60)))
    for _ in range(rng.choice((0, 0, 1, 1, 2, 4))):
        text = _spoil(rng, text)
    return text


def _box(rng: random.Random) -> str:
    """The canonical text of a box in some space, at times with one number put in the place of another."""
    bound = rng.choice(FRAMES)
    left, top, right, bottom = bound.bounds
    x1, x2 = sorted(rng.sample(range(left, right + 1), 2))
    y1, y2 = sorted(rng.sample(range(top, bottom + 1), 2))
    text = bound.text((x1, y1, x2, y2))
    if rng.random() < 0.25:
        cells = [f"{cell / 1000:.3f}" if bound.format.number == "decimal" else str(cell) for cell in (x1, y1, x2, y2)]
        text = text.replace(rng.choice(cells), rng.choice(NUMBERS), 1)
    return text


def _verdict(rng: random.Random, number: str) -> str:
    return rng.choice(VERDICTS).format(number)


def _spoil(rng: random.Random, text: str) -> str:
    at, to = sorted((rng.randrange(len(text) + 1), rng.randrange(len(text) + 1)))
    kind = rng.randrange(8)
    if kind == 0:
        return text[:at]
    if kind == 1:
        return text[:to] + text[at:to] + text[to:]
    if kind == 2:
        return text[at:to] + text[:at] + text[to:]
    if kind == 3:
        return text[:at] + rng.choice(NOISE) + text[at:]
    if kind == 4:
        return text[:at] + text[at + 1 :]
    if kind == 5:
        return text[:at] + rng.choice(NUMBERS) + text[min(at + 1, len(text)) :]
    shift = rng.choice((0xFF10, 0x0660, 0x0966))  # digits of full width, Arabic, Devanagari
    if kind == 6:
        return text[:at] + "".join(chr(shift + int(c)) if c in "0123456789" else c for c in text[at:to]) + text[to:]
    return text[:at] + chr(rng.randrange(0x3000)) + text[at:]


# -- the second reader: character by character, no regular expressions, exact decimals ------------------------------


def quads(bound: Frame, text: str) -> list[list[Decimal]]:
    """The boxes x1, y1, x2, y2 that a careful person finds in a reply written in this space's form."""
    template = bound.format.template
    if template.startswith("<locy1>"):
        return [[box[i] for i in (1, 0, 3, 2)] for box in _loc_runs(text)]
    if "(x1,y1)" in template:
        return _point_pairs(text)
    if "x1 y1" in template:
        return _rows(text)
    if "[y1, x1, y2, x2]" in template:
        return [[box[i] for i in (1, 0, 3, 2)] for box in _lists(text)]
    return _lists(text)


def _number(item: str) -> Decimal | None:
    """A number that is all of `item`, in ASCII."""
    if not item or any(c not in "+-.0123456789eE" for c in item):
        return None
    try:
        return _exact(item)
    except InvalidOperation:
        return None


def _exact(item: str) -> Decimal:
    """A decimal; 0 where its exponent is so far below zero that Decimal has no room for it."""
    try:
        return Decimal(item)
    except InvalidOperation:
        digits, _, exponent = item.lower().partition("e-")
        if not exponent.isdigit():
            raise
        return 0 * Decimal(digits)


def _lists(text: str) -> list[list[Decimal]]:
    found, start = [], None
    for i, c in enumerate(text):
        if c == "[":
            start = i
        elif c == "]" and start is not None:
            items = [_number(item.strip()) for item in text[start + 1 : i].split(",")]
            if len(items) == 4 and all(item is not None for item in items):
                found.append(items)
            start = None
    return found


def _loc_runs(text: str) -> list[list[Decimal]]:
    runs, run, i = [], [], 0
    while i < len(text):
        inside = text[i + 4 : i + 8]
        if text[i : i + 4] == "<loc" and text[i + 8 : i + 9] == ">" and inside.isascii() and inside.isdigit():
            run.append(Decimal(inside))
            i += 9
        elif run and text[i].isspace():
            i += 1
        else:
            runs.append(run)
            run, i = [], i + 1
    return [run for run in [*runs, run] if len(run) == 4]


def _point_pairs(text: str) -> list[list[Decimal]]:
    """Parentheses that hold two numbers, joined by commas: exactly two in a row, with no third one begun."""
    bare = "".join(text.split())
    found = []
    for i in range(len(bare)):
        if bare[i] != "(" or bare[max(0, i - 2) : i] == "),":
            continue
        first, second = bare.find(")", i), bare.find(")", bare.find(")", i) + 1)
        if first < 0 or second < 0 or bare[first : first + 3] != "),(" or bare[second : second + 3] == "),(":
            continue
        inside = (bare[i + 1 : first] + "," + bare[first + 3 : second]).split(",")
        plain = not any("e" in item.lower() or item.startswith(".") or item.endswith(".") for item in inside)
        items = [_number(item) for item in inside]
        if plain and len(items) == 4 and all(item is not None for item in items):
            found.append(items)
    return found


def _rows(text: str) -> list[list[Decimal]]:
    pieces = [piece.partition("</box>") for piece in text.split("<box>")[1:]]
    bodies = [body for body, end, _ in pieces if end and "<" not in body and ">" not in body]
    words = text.split()
    rows = [body.split() for body in bodies] or [_bare_row(words[i : i + 4], i, words) for i in range(len(words))]
    found = [[_number(word) for word in row] for row in rows if len(row) == 4 and "e" not in "".join(row).lower()]
    return [row for row in found if all(item is not None for item in row)]


def _bare_row(words: list[str], at: int, all_words: list[str]) -> list[str]:
    """Four words that are numbers, between words that are none; a word may touch either end, a digit may not."""
    if len(words) < 4:
        return []
    sign_or_digit = [i for i, c in enumerate(words[0]) if c in "+-0123456789"]
    first = words[0][sign_or_digit[0] :] if sign_or_digit else ""
    before = words[0][: len(words[0]) - len(first)]
    last = words[3]
    while last and not last[-1].isdigit():
        last = last[:-1]
    after = words[3][len(last) :]
    if not all(c.isalpha() or c in "<>[({\"':;=*," for c in before) or any(map(str.isnumeric, before + after)):
        return []
    beside = "".join([*all_words[max(0, at - 1) : at], *all_words[at + 4 : at + 5]])
    return [] if any(map(str.isnumeric, beside)) else [first, words[1], words[2], last]


def wrong_box(bound: Frame, text: str) -> str:
    """What is wrong with the verdict of `Frame.parse` on a text; "" when nothing is."""
    cells, state = bound.parse(text)
    if (cells is None) == (state == "ok") or state not in BOX_STATES:
        return f"state {state!r} with {cells}"
    if cells is None:
        return ""
    found = quads(bound, text)
    if len(found) != 1:
        return f"accepted {cells}, but the text holds {len(found)} boxes"
    written = [value * 1000 if bound.format.number == "decimal" else value for value in found[0]]
    tops = (bound.x.top, bound.y.top) * 2
    if not all(0 <= value <= top for value, top in zip(written, tops, strict=True)):
        return f"accepted {cells}, out of range: {found[0]}"
    if written[0] > written[2] or written[1] > written[3] or cells[0] >= cells[2] or cells[1] >= cells[3]:
        return f"accepted {cells}, not in order: {found[0]}"
    left, top, right, bottom = bound.bounds
    ends = ((left, right), (top, bottom)) * 2
    for cell, value, (low, high) in zip(cells, written, ends, strict=True):
        if abs(min(max(value, low), high) - cell) > Decimal("0.500001"):
            return f"accepted {cells}, but the text says {found[0]}"
    return ""


def wrong_score(text: str) -> str:
    """What is wrong with the verdict of `parse_score` on a text; "" when nothing is."""
    score, state = parse_score(text)
    if (score is None) == (state == "ok") or state not in SCORE_STATES:
        return f"state {state!r} with {score}"
    if score is None:
        return ""
    start, end = text.find("{"), text.rfind("}")
    if text.count("{") != 1 or text.count("}") != 1 or start > end:
        return f"accepted {score} from a text with more than one pair of braces"
    held: list[tuple[str, object]] = json.loads(text[start : end + 1], parse_float=_exact, object_pairs_hook=list)
    scores = [value for key, value in held if key == "score"]
    if len(scores) != 1 or type(scores[0]) not in (int, Decimal) or not 0 <= scores[0] <= 1:
        return f"accepted {score} from {held}"
    return "" if abs(Decimal(score) - scores[0]) < Decimal("1e-9") else f"accepted {score}, the text says {scores[0]}"


def fuzz(replies: int, seed: int) -> tuple[dict[str, Counter[str]], list[str]]:
    """Counts of states by parser, and what was wrong, one line a fault."""
    rng = random.Random(seed)
    parsers = {bound.space: (bound.parse, partial(wrong_box, bound)) for bound in FRAMES}
    parsers["score"] = (parse_score, wrong_score)
    counts: dict[str, Counter[str]] = {name: Counter() for name in parsers}
    faults: list[str] = []
    for _ in range(replies):
        text = reply(rng)
        for name, (parse, wrong_with) in parsers.items():
            try:
                counts[name][parse(text)[1]] += 1
                wrong = wrong_with(text)
            except Exception as error:  # what is looked for
                wrong = f"raised {type(error).__name__}: {error}"
            if wrong:
                faults.append(f"{name}: {wrong}: {text!r}")
    return counts, faults


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--replies", type=int, default=100_000)
    options.add_argument("--seed", type=int, default=0)
    given = options.parse_args()
    start = time.monotonic()
    counts, faults = fuzz(given.replies, given.seed)
    print(f"{given.replies} replies, seed {given.seed}, {time.monotonic() - start:.0f} s")
    for parser, states in counts.items():
        print(f"{parser:20}" + "  ".join(f"{state} {n}" for state, n in states.most_common()))
    raised = sum(": raised " in fault for fault in faults)
    print(f"exceptions {raised}, wrongly accepted {len(faults) - raised}")
    for fault in faults[:10]:
        print(fault[:400])
    raise SystemExit(bool(faults))


if __name__ == "__main__":
    main()
