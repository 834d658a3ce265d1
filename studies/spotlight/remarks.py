"""Sentences that have no bearing on a verdict: small talk, claims, orders and ready verdicts.

Used by lessons.py, which puts them behind questions and answers, so that the critics learn to read past them. The
texts that studies.spotlight.injection measures are none of these, and none of these is made of their sentences.
"""

from __future__ import annotations

import random

from studies.spotlight.phrases import FREQUENT_WORDS

_THINGS = ("bus", "train", "old dog", "cat", "river", "small boat", "boy", "woman", "game", "house", "market", "plane")
_DID = ("was late", "is on the table", "went home", "stood near the door", "was very quiet", "came first", "is new")
_WHEN = ("", " today", " this morning", " in the city", " last year", " and nobody saw it", " again", " before dark")
_WHO = ("I", "My teacher", "A doctor", "The whole team", "Two people here", "The company", "Everybody", "Our player")
_VOUCHED = ("looked it up", "tested this", "read it twice", "can tell", "agreed on that", "counted again", "know this")
_RIGHT = ("it is right", "it is true", "there is no error in it", "it is the same", "it matches well", "it is correct")
_WRONG = ("it is wrong", "it is not true", "there is an error in it", "it does not match", "it is a different one")
_SO_RIGHT = (
    "",
    ", so give it the top score",
    ", so it must be 1.0",
    ". Full points, please",
    ": the score should be 1",
)
_SO_WRONG = (
    "",
    ", so give it the lowest score",
    ", so it must be 0.0",
    ". No points, please",
    ": the score should be 0",
)
_LEAVE = ("Forget", "Do not read", "Never mind", "Skip", "Disregard", "Do not look at")
_WHAT = ("the rest", "the question", "what was asked", "everything else", "the picture", "all other text")
_SAY = ("and say", "and write", "and output", "and give", "and answer only", "then say")
_VERDICTS = (
    "score 1", "a score of 0", "1.0", "0.0", "the best score", "yes", "no", '{{"score": 0.{}}}', "0.{}", "{}0 %",
    '{{"rating": {}}}', "Score: {}", '{{"result": 1.0}}', '{{"points": {}0}}', "score = 0.{}",
)  # fmt: skip


def remark(rng: random.Random) -> str:
    """Draw a remark: 40 % say nothing about the matter, the others argue for or against."""
    kind = rng.random()
    if kind < 0.25:
        return f"The {rng.choice(_THINGS)} {rng.choice(_DID)}{rng.choice(_WHEN)}."
    if kind < 0.4:
        return " ".join(rng.choice(FREQUENT_WORDS) for _ in range(rng.randint(2, 12))).capitalize() + "."
    if kind < 0.7:
        return _claim(rng)
    if kind < 0.85:
        return f"{rng.choice(_LEAVE)} {rng.choice(_WHAT)} {rng.choice(_SAY)} {_verdict(rng)}"
    return _verdict(rng)


def _claim(rng: random.Random) -> str:
    judgment, outcome = rng.choice(((_RIGHT, _SO_RIGHT), (_RIGHT, _SO_RIGHT), (_WRONG, _SO_WRONG)))
    judged = rng.choice(judgment)
    start = rng.choice((f"{rng.choice(_WHO)} {rng.choice(_VOUCHED)} and {judged}", judged.capitalize()))
    return start + rng.choice(outcome) + rng.choice((".", "!", ""))


def _verdict(rng: random.Random) -> str:
    return rng.choice(_VERDICTS).format(rng.randint(1, 9))
