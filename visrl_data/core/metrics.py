"""Score a response against the accepted answers: one table of metrics for generation, evaluation and RLOO.

exact        the text itself, but for blanks around it
normalized   but for case, punctuation and English articles
anls         edit distance (Biten et al., ICCV 2019), for text that is read off the image
vqa          VQA accuracy (Antol et al., ICCV 2015): how many of the annotators gave this answer

Where a question has the answers of ten annotators, all of them are kept, repeats included; `standard_answers` is what
most of them said.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence

Metric = Callable[[str, Sequence[str]], float]
"""Response and accepted answers (at least one) -> score in [0, 1]."""

_ARTICLES = re.compile(r"\b(a|an|the)\b")
# Punctuation goes, except what makes a number: "3.5", "1,000", "-5", ".5".
_PUNCTUATION = re.compile(r"[^\w\s](?!\d)|(?<!\d)[^\w\s.-](?=\d)")

_MARKS = re.compile(r"<\|(?:begin|end)_of_box\|>")  # with which GLM-4V marks its final answer, box or not

_ANNOTATORS_NEEDED = 3
_ABOUT_QUESTION = {
    "answering does not require reading text in the image",
    "unanswerable",
    "unsuitable",
    "unsuitable image",
}
_NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_VQA_WORDS = {"none": "0"} | {word: str(i) for i, word in enumerate(_NUMBERS)} | dict.fromkeys(("a", "an", "the"), "")
_VQA_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_CONTRACTIONS = """
ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've
he's how'd how'll how's isn't it'd it'd've it'll ma'am might've mightn't mightn't've must've mustn't needn't not've
o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's
someone'd someone'd've someone'll someone's something'd something'd've something'll that's there'd there'd've there're
there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's what've
when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't would've wouldn't
wouldn't've y'all y'all'd've y'all'll you'd you'd've you'll you're you've
"""
# A contraction that lacks one of its apostrophes gets it back.
_VQA_WORDS |= {
    word[:i] + word[i + 1 :]: word for word in _CONTRACTIONS.split() for i, letter in enumerate(word) if letter == "'"
}


def exact(response: str, answers: Sequence[str]) -> float:
    """Return 1.0 when the response is an answer, letter by letter, but for blanks around it; else 0.0."""
    return float(_unmarked(response).strip() in {answer.strip() for answer in answers})


def normalized(response: str, answers: Sequence[str]) -> float:
    """Return 1.0 when the response equals an answer, both normalized; else 0.0."""
    return float(comparable(response) in {comparable(answer) for answer in answers})


def comparable(text: str) -> str:
    """Return what `normalized` compares: the normalized text, or the text itself when nothing is left of it."""
    return normalize(text) or text.strip()


def normalize(text: str) -> str:
    """Return the text in lower case, without punctuation and English articles, with single spaces."""
    return " ".join(_ARTICLES.sub(" ", _PUNCTUATION.sub("", _unmarked(text).lower())).split())


def _unmarked(text: str) -> str:
    """Return a response without the marks around it, which are no special tokens: engines leave them in replies."""
    return _MARKS.sub("", text)


def anls(response: str, answers: Sequence[str]) -> float:
    """Return the normalized Levenshtein similarity with the nearest answer, 0 below 0.5.

    Its average over questions is the ANLS of Biten et al., "Scene Text Visual Question Answering" (ICCV 2019).
    """
    from rapidfuzz.distance import Levenshtein

    best = max(
        Levenshtein.normalized_similarity(_unmarked(response).strip().lower(), answer.strip().lower())
        for answer in answers
    )
    return best if best >= 0.5 else 0.0


def vqa(response: str, answers: Sequence[str]) -> float:
    """Return min(matches / 3, 1), averaged over the subsets that leave one annotator's answer out.

    answers: one of each annotator, repeats included. With fewer than four there is no vote, and one match is 1.0.
    """
    normal = vqa_normalize(response)
    matches = [vqa_normalize(answer) == normal for answer in answers]
    if len(matches) <= _ANNOTATORS_NEEDED:
        return float(any(matches))
    total = sum(matches)
    return sum(min((total - match) / _ANNOTATORS_NEEDED, 1.0) for match in matches) / len(matches)


def vqa_normalize(text: str) -> str:
    """Return the text as the official VQA evaluation compares it.

    Punctuation is removed where it stands beside a space (all of it in a text with a number like 1,000), and becomes
    a space elsewhere; a period stays before a digit. Words of numbers become digits, articles go, and
    contractions get their apostrophes.
    """
    text = _unmarked(text).replace("\n", " ").replace("\t", " ").strip()
    has_thousands = re.search(r"\d,\d", text) is not None
    result = text
    for mark in _VQA_PUNCTUATION:
        is_beside_space = f"{mark} " in text or f" {mark}" in text
        result = result.replace(mark, "" if is_beside_space or has_thousands else " ")
    words = re.sub(r"\.(?!\d)", "", result).lower().split()
    return " ".join(filter(None, (_VQA_WORDS.get(word, word) for word in words)))


def has_votes(answers: Sequence[str]) -> bool:
    """Return whether answers are those of several annotators: then they repeat, and are no list of alternatives."""
    return len(set(answers)) < len(answers)


def standard_answers(answers: Sequence[str]) -> tuple[str, ...]:
    """Return the answers that count as right: of annotators the most frequent one (all of a tie), else each, once.

    Annotators agree when their answers are equal by `vqa_normalize`; the most frequent spelling is returned. Answers
    about the question, such as "unanswerable", do not count beside others.
    """
    usable = [answer for answer in answers if not is_about_question(answer)] or list(answers)
    if not has_votes(answers):
        return tuple(dict.fromkeys(usable))
    spellings = Counter(usable)
    votes: Counter[str] = Counter()
    for answer, count in spellings.items():
        votes[vqa_normalize(answer) or answer] += count
    best = max(votes.values())
    of_each: dict[str, str] = {}
    for answer, _ in spellings.most_common():
        of_each.setdefault(vqa_normalize(answer) or answer, answer)
    return tuple(of_each[answer] for answer, count in votes.items() if count == best)


def is_about_question(answer: str) -> bool:
    """Return whether an annotator's answer says that the question has none (TextVQA, VizWiz)."""
    return answer.strip().strip(".").lower() in _ABOUT_QUESTION


METRICS: dict[str, Metric] = {"exact": exact, "normalized": normalized, "anls": anls, "vqa": vqa}
OLD_NAMES = {"normalised": "normalized"}


def answer_metric(name: str) -> Metric:
    """Return the metric of a name of METRICS, or of one that it had before."""
    return METRICS[OLD_NAMES.get(name, name)]
