"""Words of Spotlight besides the default prompts: frequent words, and prompts put in other words.

Used by tokenizer.py (words) and lessons.py (paraphrases). The base model is trained on the default
prompts of visrl_data.core.prompts and on the paraphrases here; those HELD_OUT are only measured.
"""

from __future__ import annotations

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
)
_RESPONSES = (
    "Model answer: {response}\n",
    "The model said: {response}\n",
    "Given the response: {response}\n",
    "Reply: {response}\n",
    "Answer of the model: {response}\n",
    "Output: {response}\n",
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
)
_RESPONSE_REQUESTS = (
    "Is the model answer correct?",
    "Do the two agree?",
    "Compare the two answers.",
    "Rate how well the response matches the answer.",
    "Is it the same as the standard answer?",
    "Look at both and tell if the response is right.",
)
_FORMATS = (
    ' Give a score from 0 to 1 as JSON, like {"score": 0.5}.',
    ' Reply with {"score": 0.8}, from 0 (no) to 1 (yes).',
    " Between 0 and 1. Only JSON with the key score.",
    " Score it from 0 to 1 in JSON.",
    " Write only a JSON object with a score, no reasoning.",
    " 0 is no, 1 is yes. In JSON.",
)
BOX_CRITICS = tuple(
    "<crop>\n" + given + request + form for given in _GIVEN for request in _BOX_REQUESTS for form in _FORMATS
)
RESPONSE_CRITICS = tuple(
    "<image>\n" + given + response + request + form
    for given in _GIVEN
    for response in _RESPONSES
    for request in _RESPONSE_REQUESTS
    for form in _FORMATS
)
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
