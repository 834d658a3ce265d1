"""Words of Spotlight besides the default prompts: frequent words, and prompts put in other words.

Used by tokenizer.py (words) and lessons.py (paraphrases). The base model is trained on the default
prompts of visrl_data.prompts and on TRAINED paraphrases; HELD_OUT ones are only measured.
"""

from __future__ import annotations

BOX_CRITICS = (
    "<crop>\nQuestion: {question}\nAnswer: {answer}\n"
    'Can this answer be read in the picture? Give a score from 0 to 1 as JSON, like {"score": 0.5}.',
    "<crop>\n{question}\nThe correct answer is {answer}.\n"
    'Does the picture contain the evidence for it? Reply with {"score": 0.8}, from 0 (no) to 1 (yes).',
    "<crop>\nGiven the question: {question}\nGiven the answer: {answer}\n"
    "Rate how well the sub-image supports the answer, between 0 and 1. Only JSON with the key score.",
    "<crop>\nQuestion: {question}\nStandard answer: {answer}\n"
    "Is everything that is needed to answer visible here? Score it from 0 to 1 in JSON.",
)
BOX_CRITICS_HELD_OUT = (
    "<crop>\nQuestion: {question}\nCorrect answer: {answer}\n"
    'How well does this picture show the answer? Score from 0 to 1. Reply only with JSON like {"score": 0.8}.',
    "<crop>\nThe question is: {question}\nThe answer is: {answer}\n"
    "Rate from 0 to 1 if the crop shows what is needed. JSON only.",
)
RESPONSE_CRITICS = (
    "<image>\nQuestion: {question}\nAnswer: {answer}\nModel answer: {response}\n"
    'Is the model answer correct? Give a score from 0 to 1 as JSON, like {"score": 0.5}.',
    "<image>\n{question}\nThe correct answer is {answer}. The model said: {response}\n"
    'Do the two agree? Reply with {"score": 0.8}, from 0 (no) to 1 (yes).',
    "<image>\nGiven the question: {question}\nGiven the answer: {answer}\nGiven the response: {response}\n"
    "Rate how well the response matches the answer, between 0 and 1. Only JSON with the key score.",
    "<image>\nQuestion: {question}\nStandard answer: {answer}\nModel answer: {response}\n"
    "Compare the two answers. Score it from 0 to 1 in JSON.",
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
"""

FREQUENT_WORDS: tuple[str, ...] = tuple(
    dict.fromkeys(
        word.strip(".,:?(){}\"'")
        for source in (_EVERYDAY, *BOX_CRITICS, *RESPONSE_CRITICS)
        for word in source.replace("{question}", " ").replace("{answer}", " ").replace("{response}", " ").split()
        if word.strip(".,:?(){}\"'").isalpha() and len(word) > 1
    )
)
