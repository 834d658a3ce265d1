"""Register the two-pass model with lmms-eval, which owns MME, MMBench, POPE, RefCOCO, V* and their scoring.

lmms-eval finds it by name through the entry point in pyproject.toml (group `lmms_eval.models`); nothing else of
this project imports this module. docs/evaluation.md has the commands.

A task's request becomes its one picture, its question, and its ending (the post-prompt: "Answer with the option's
letter"); two_pass.py answers it. What is left to a task: the ending, the longest answer, the texts that stop it.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from typing import Any

from lmms_eval.api.instance import Instance
from lmms_eval.api.model import lmms
from lmms_eval.models.registry_v2 import ModelManifest
from loguru import logger
from tqdm import tqdm

from visrl_data.core.errors import UsageError, VisRLError
from visrl_data.engines.refusals import RequestRefused
from visrl_data.evaluation.two_pass import TaskRequest, TwoPassModel, cut_ending, open_picture

# RefCOCO's tasks: which numbers they read, and the sentence that says so, which the box pass leaves out.
_BOX_TASK = re.compile(r"refcoco.*_(bbox_rec|grounding)(_|$)")
_BOX_FORMS = {
    "bbox_rec": "Bounding box coordinates are specified in the format (top-left x, top-left y, bottom-right x, "
    "bottom-right y). All values are floating point numbers bounded between 0 and 1.",
    "grounding": "Report bbox coordinates in JSON format.",
}

_ONE_PICTURE = "The model visrl answers one question about one picture;"


def manifest() -> ModelManifest:
    """Return what the entry point gives to lmms-eval: the name `visrl`, and where the class is."""
    return ModelManifest("visrl", chat_class_path=f"{__name__}.VisRL")


class VisRL(lmms):
    """`--model visrl --model_args pretrained=MODEL[,steps=1][,OPTION=VALUE...]`.

    pretrained: as `visrl eval --model`. steps: 2 or 1; default: as the model was trained. The other options
    are those in OPTIONS, by the names and with the defaults of `visrl eval`; batch_size is lmms-eval's --batch_size,
    and device may be its --device. Raises VisRLError for anything that the user can fix.
    """

    is_simple = False

    def __init__(
        self, pretrained: str = "spotlight", steps: int | None = None, batch_size: int | str = 1, **options: Any
    ) -> None:
        super().__init__()
        if not str(batch_size).isdecimal():
            raise UsageError(f"--batch_size {batch_size}: expected a number; a batch too large is halved by itself.")
        self.batch_size = int(batch_size)
        self.model = TwoPassModel(pretrained, steps, self.batch_size, options, "--model_args")

    def generate_until(self, requests: Sequence[Instance]) -> list[str]:
        """Return one reply for each request, in order."""
        replies: list[str | None] = []
        with tqdm(total=len(requests), desc="visrl") as bar:
            for batch in _batches(requests, self.batch_size):
                replies += self._answer_all([self._task_request(*request.args) for request in batch])
                bar.update(len(batch))
        if None in replies:
            logger.warning(f"{replies.count(None)} of {len(replies)} boxes could not be read: their answers are empty.")
        return [reply or "" for reply in replies]

    def loglikelihood(self, requests: Sequence[Instance]) -> list[tuple[float, bool]]:
        raise VisRLError("The model visrl gives no likelihoods; leave out tasks that compare them.")

    def generate_until_multi_round(self, requests: Sequence[Instance]) -> list[str]:
        raise VisRLError(f"{_ONE_PICTURE} leave out tasks of several rounds.")

    def _task_request(
        self, context: str, doc_to_messages: Any, options: dict[str, Any], row: int, task: str, split: str
    ) -> TaskRequest:
        """Parse the six arguments of lmms-eval's chat models. doc_to_messages is a method of the task."""
        messages = doc_to_messages(self.task_dict[task][split][row])
        parts = messages[0]["content"] if len(messages) == 1 and messages[0]["role"] == "user" else []
        kinds = sorted(part["type"] for part in parts)
        if kinds != ["image", "text"]:
            raise VisRLError(
                f"Task {task}, row {row}: {', '.join(kinds) or f'{len(messages)} messages'}. "
                f"{_ONE_PICTURE} leave out this task."
            )
        content = {part["type"]: part for part in parts}
        endings = getattr(doc_to_messages.__self__, "lmms_eval_specific_kwargs", None) or {}
        question, ending = cut_ending(content["text"]["text"], endings.get("post_prompt") or "")
        box_task = _BOX_TASK.match(task)
        form = box_task[1] if box_task else ""
        until = options.get("until") or ()
        return TaskRequest(
            image=open_picture(content["image"]["url"]),
            question=question.replace(_BOX_FORMS[form], "").strip() if form else question,
            ending=ending,
            form=form,
            max_new_tokens=options.get("max_new_tokens") or self.model.config.max_new_tokens,
            until=(until,) if isinstance(until, str) else tuple(until),
        )

    def _answer_all(self, batch: list[TaskRequest]) -> list[str | None]:
        """Return each reply: None where a box can't be read, "" where the model refuses the request."""
        replies = self.model.answer_all(batch)
        for refusal in replies:
            if isinstance(refusal, RequestRefused):
                logger.warning(f"A request was refused, its answer is empty: {refusal}")
        return ["" if isinstance(reply, RequestRefused) else reply for reply in replies]


def _batches(requests: Sequence[Instance], size: int) -> Iterator[list[Instance]]:
    """Yield at most `size` requests of one task at a time, in order."""
    for _, group in itertools.groupby(requests, key=lambda request: request.args[4]):
        rest = list(group)
        yield from (rest[start : start + size] for start in range(0, len(rest), size))
