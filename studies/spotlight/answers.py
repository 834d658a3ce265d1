"""Pairs of a standard answer and a model's answer, with the score a careful reader would give.

Used by lessons.py for the response critic. Half of the pairs are digits, as in Spotlight's own
questions; the others are words, numbers and stray text, so that the critic can compare the answers of
other data too.
"""

from __future__ import annotations

import random
import string

from studies.spotlight.phrases import FREQUENT_WORDS
from visrl_data.spotlight.scenes import COLORS, DIGITS, SHAPES

NUMBER_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_STYLES = ("{}", "{}.", "number {}", "Number {}", "the number is {}", "It is {}.", "the number {}", " {} ", "{}!")
_WORD_STYLES = ("{}", "{}.", "the {}", "a {}", "It is {}.", "The answer is {}.", "{} ")
_UNITS = (" cm", " km", " kg", " %", " people", " years")
_WORDS = (*COLORS, *SHAPES, *FREQUENT_WORDS)


def answer_pair(rng: random.Random, digit: str | None = None, spelled: float = 0.14) -> tuple[str, str, float]:
    """Draw (standard answer, model's answer, score in 0..1); about half of the pairs agree. Of pairs of digits a share
    `spelled`, at most 0.5, has the answer as a word.
    """
    if digit is not None or rng.random() < 0.4:
        return _digit_pair(rng, digit or rng.choice(DIGITS), spelled)
    kind = rng.random()
    standard = _phrase(rng) if kind < 0.5 else _number(rng) if kind < 0.75 else stray_text(rng, 12)
    chance = rng.random()
    if chance < 0.45:
        style = rng.choice(_WORD_STYLES) if kind < 0.5 else rng.choice(_STYLES)
        return standard, rng.choice((str, str.upper, str.capitalize))(style.format(standard)), 1.0
    if chance < 0.52 and 0.5 <= kind < 0.75:
        return standard, standard + rng.choice(_UNITS), 0.9
    if chance < 0.6 and kind < 0.5 and " " in standard:
        return standard, rng.choice(standard.split()), 0.5
    other = rng.choice((_phrase, _number, garbage))(rng)
    if chance < 0.8 and kind >= 0.5:
        place = rng.randrange(len(standard))
        new = rng.choice(string.digits if standard[place].isdigit() else string.ascii_lowercase)
        other = standard[:place] + new + standard[place + 1 :]
    return standard, other, 1.0 if other.strip().lower() == standard.strip().lower() else 0.0


def garbage(rng: random.Random) -> str:
    """Draw a reply that answers nothing: another turn's format, stray text, or nothing at all."""
    kind = rng.randrange(5)
    if kind == 0:
        return f"[{', '.join(f'{rng.random():.3f}' for _ in range(4))}]"
    if kind == 1:
        return f'{{"score": {rng.randint(0, 10) / 10:.1f}}}'
    if kind == 2:
        return rng.choice(("", " ", "?", "unknown", "I can not read it.", "none"))
    return stray_text(rng, 20) if kind == 3 else _phrase(rng)


def stray_text(rng: random.Random, longest: int) -> str:
    """Draw characters of any kind, 1 to `longest` of them."""
    pool = rng.choice((string.ascii_letters, string.digits + ".,-", string.printable[:95], "äéñ日本中☃→ßø "))
    return "".join(rng.choice(pool) for _ in range(rng.randint(1, longest)))


def _digit_pair(rng: random.Random, digit: str, spelled: float) -> tuple[str, str, float]:
    other = rng.choice([d for d in DIGITS if d != digit])
    kind, said, score = rng.random(), *rng.choice(((digit, 1.0), (other, 0.0)))
    if kind < 0.3:
        return digit, said, score
    if kind < 0.86 - spelled:
        return digit, rng.choice(_STYLES).format(said), score
    if kind < 0.86:
        word = NUMBER_WORDS[int(said)]
        return digit, rng.choice(_STYLES).format(rng.choice((word, word.capitalize()))), score
    return digit, rng.choice((digit + other, other + digit)) if kind < 0.9 else garbage(rng), 0.0


def _phrase(rng: random.Random) -> str:
    return " ".join(rng.choice(_WORDS) for _ in range(rng.choice((1, 1, 2, 3))))


def _number(rng: random.Random) -> str:
    kind = rng.randrange(3)
    if kind == 0:
        return str(rng.randint(10, 9999))
    return (
        f"{rng.uniform(0, 100):.1f}"
        if kind == 1
        else f"{rng.randint(1, 12)}/{rng.randint(1, 28)}/{rng.randint(1990, 2030)}"
    )
