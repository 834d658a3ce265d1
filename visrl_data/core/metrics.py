"""Compare a response with the standard answers: one table of answer metrics for generation, evaluation and RLOO."""

from __future__ import annotations

import re
from collections.abc import Sequence

_ARTICLES = re.compile(r"\b(a|an|the)\b")


# Punctuation goes, except what makes a number: "3.5", "1,000", "-5", ".5".
_PUNCTUATION = re.compile(r"[^\w\s](?!\d)|(?<!\d)[^\w\s.-](?=\d)")


def normalise(text: str) -> str:
    """Lower case, no punctuation, no English articles, single spaces (as VQA scoring does)."""
    return " ".join(_ARTICLES.sub(" ", _PUNCTUATION.sub("", text.lower())).split())


def comparable(text: str) -> str:
    """What exact match compares: the normalised text, or the text itself when nothing is left of it."""
    return normalise(text) or text.strip()


def exact_match(response: str, answers: Sequence[str]) -> float:
    """1.0 when the response equals an answer, both normalised; else 0.0."""
    return float(comparable(response) in {comparable(answer) for answer in answers})


def anls(response: str, answers: Sequence[str]) -> float:
    """Average normalised Levenshtein similarity for one response: the best over the answers, 0 below 0.5.

    Biten et al., "Scene Text Visual Question Answering" (ICCV 2019), with its threshold of 0.5.
    """
    from rapidfuzz.distance import Levenshtein

    best = max(
        Levenshtein.normalized_similarity(response.strip().lower(), answer.strip().lower()) for answer in answers
    )
    return best if best >= 0.5 else 0.0
