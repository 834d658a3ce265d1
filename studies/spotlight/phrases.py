"""Words of Spotlight besides the default prompts: frequent words, and prompts put in other words.

Used by tokenizer.py (words) and lessons.py (paraphrases). The base model is trained on the default
prompts of visrl_data.core.prompts and on the paraphrases here; those HELD_OUT are only measured.
"""

from __future__ import annotations

import random

LOCATE = (
    "<image>\n{question}\nWhere is it in the picture?",
    "<image>\n{question}\nShow where that is.",
    "<image>\n{question}\nIn which part of the image is it?",
)
"""How the base is asked for a box in training; the pipeline's focus request it hears only before an answer."""
_GIVEN = (
    "Question: {question}\nStandard answer: {answer}\n",
    "Question: {question}\nAnswer: {answer}\n",
    "{question}\nThe correct answer is {answer}.\n",
    "Given the question: {question}\nGiven the answer: {answer}\n",
    "{question} Right answer: {answer}\n",
    "Question: {question}\nExpected answer: {answer}\n",
    "Q: {question}\nTrue answer: {answer}\n",
    "This was asked: {question}\nThis is right: {answer}\n",
    "{question}\nReference: {answer}\n",
    "The user wants to know: {question}\nSolution: {answer}\n",
    "Question:\n{question}\nGold answer:\n{answer}\n",
    "Problem: {question}\nTruth: {answer}\n",
)
_RESPONSES = (
    "Model answer: {response}\n",
    "The model said: {response}\n",
    "Given the response: {response}\n",
    "Reply: {response}\n",
    "Answer of the model: {response}\n",
    "Output: {response}\n",
    "Model response: {response}\n",
    "It was answered: {response}\n",
    "Given answer: {response}\n",
    "The other answer: {response}\n",
    "What the model wrote:\n{response}\n",
    "A student says {response}\n",
)
MARKS = tuple(
    (given.split("{question}")[1].split("{answer}")[0], given.split("{answer}")[1] + response.split("{response}")[0])
    for given in ("{question}\nStandard answer: {answer}\n", *_GIVEN)
    for response in _RESPONSES
)
"""What stands before and between the two answers in the response critics' prompts."""
_BOX_REQUESTS = (
    "Can this answer be read in the picture?",
    "Does the picture contain the evidence for it?",
    "Is everything that is needed to answer visible here?",
    "Rate how well the sub-image supports the answer.",
    "Is this part of the image enough to answer the question?",
    "Look at the crop and tell if the answer can be found in it.",
    "Is the answer in this crop?",
    "How much of what is asked for can be seen?",
    "Judge if the region is the right one.",
    "Does this view help?",
)
_RESPONSE_REQUESTS = (
    "Is the model answer correct?",
    "Do the two agree?",
    "Compare the two answers.",
    "Rate how well the response matches the answer.",
    "Is it the same as the standard answer?",
    "Look at both and tell if the response is right.",
    "How good is the reply?",
    "Judge the response.",
    "Is that what was expected?",
    "Do both mean the same thing?",
)
_FORMATS = (
    ' Give a score from 0 to 1 as JSON, like {"score": 0.5}.',
    ' Reply with {"score": 0.8}, from 0 (no) to 1 (yes).',
    " Between 0 and 1. Only JSON with the key score.",
    " Score it from 0 to 1 in JSON.",
    " Write only a JSON object with a score, no reasoning.",
    " 0 is no, 1 is yes. In JSON.",
    " JSON please.",
    ' Answer with JSON such as {"score": 0.3} and nothing else.',
    "\nUse numbers between 0 and 1.",
)


ANY_WORDS = 0.3
"""Share of labels and of requests that are any words at all."""


def draw_box_critic(rng: random.Random) -> str:
    """Draw a wording of the box critic's prompt; now and then labels or the request are any words at all."""
    return "<crop>\n" + _draw_given(rng) + _draw_request(rng, _BOX_REQUESTS)


def draw_response_critic(rng: random.Random) -> str:
    """Draw a wording of the response critic's prompt; now and then labels or the request are any words at all."""
    response = rng.choice(_RESPONSES)
    if rng.random() < ANY_WORDS:
        response = f"{_any_words(rng, 3)}: {{response}}\n"
    return "<image>\n" + _draw_given(rng) + response + _draw_request(rng, _RESPONSE_REQUESTS)


def _draw_given(rng: random.Random) -> str:
    if rng.random() < ANY_WORDS:
        before = rng.choice(("", f"{_any_words(rng, 2)}: "))
        return f"{before}{{question}}\n{_any_words(rng, 2)}{rng.choice((' answer:', ':', ' is'))} {{answer}}\n"
    return rng.choice(_GIVEN)


def _draw_request(rng: random.Random, requests: tuple[str, ...]) -> str:
    request = rng.choice(requests)
    if rng.random() < ANY_WORDS:
        request = _any_words(rng, 9) + rng.choice("?.")
    return request + rng.choice(_FORMATS)


def _any_words(rng: random.Random, most: int) -> str:
    """Draw up to `most` words, capitalized, but none that the held-out wordings call an answer by."""
    return " ".join(rng.choice(_LABEL_WORDS) for _ in range(rng.randint(1, most))).capitalize()


BOX_CRITICS_HELD_OUT = (
    "<crop>\nQuestion: {question}\nCorrect answer: {answer}\n"
    'How well does this picture show the answer? Score from 0 to 1. Reply only with JSON like {"score": 0.8}.',
    "<crop>\nThe question is: {question}\nThe answer is: {answer}\n"
    "Rate from 0 to 1 if the crop shows what is needed. JSON only.",
)
RESPONSE_CRITICS_HELD_OUT = (
    "<image>\nQuestion: {question}\nCorrect answer: {answer}\nResponse: {response}\n"
    'How well does the response match? Score from 0 to 1. Reply only with JSON like {"score": 0.8}.',
    "<image>\nThe question is: {question}\nThe answer is: {answer}\nThe model said: {response}\n"
    "Rate from 0 to 1 if the model answer is correct. JSON only.",
)

_EVERYDAY = """
zero one two three four five six seven eight nine ten number digit none unknown nothing not
a an the this that these those of to in on at by for from with and or but if as is are was were be been
has have had do does did can could will would should may it its he she they we you i there here
who what when where why how which whose many much more most less least all some any no yes only also
left right top bottom above below behind between near front back side corner middle centre center inside
picture image photo crop region box bounding coordinate sub area part object thing scene view background
man woman person people child boy girl dog cat bird horse car bus truck train bike boat plane tree flower
grass sky cloud water sea river mountain road street house building room door window wall floor table chair
food fruit apple banana bread plate cup bottle glass phone clock book sign light hat shirt shoe bag ball
black white brown grey gray pink dark bright large small big little long short high low new old young
name colour color shape kind type title text word letter line page date year time day price total amount
street company city country state team game player score answer question standard model response correct
wrong same different true false please describe read find look show give tell say write count choose
Question Answer Can Give JSON like The Does contain evidence Reply Given Rate well supports Only key
star hexagon largest smallest leftmost rightmost highest lowest locate
Standard Is everything needed visible Score Model said Do agree matches Compare answers
"""

FREQUENT_WORDS: tuple[str, ...] = tuple(dict.fromkeys(word for word in _EVERYDAY.split() if len(word) > 1))
"""Part of the tokenizer: any change here makes the shipped weights useless."""
_LABEL_WORDS = tuple(word for word in FREQUENT_WORDS if word.lower() not in ("correct", "response", "question"))
