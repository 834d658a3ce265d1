"""Run VLMEvalKit with the two-pass model among its models: its run.py as it is, and no change to its code.

    python -m visrl_data.evaluation.vlmevalkit VLMEvalKit/run.py --config eval.json

VLMEvalKit has no way for other packages to add a model: its run.py looks models up in a table, and their classes in a
module of its package. This module puts the class VisRL there and then runs that file; docs/evaluation.md has an
eval.json.
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from typing import Any

from visrl_data.core.errors import UsageError, VisRLError
from visrl_data.engines.refusals import RequestRefused
from visrl_data.evaluation.two_pass import TaskRequest, TwoPassModel, cut_ending, open_picture

NAME = "VisRL"
# How its benchmarks end a question: what the box pass leaves out, and the answer's turn ends with.
_ENDINGS = (
    "Please select the correct answer from the options above.",
    "Answer with the option's letter from the given choices directly.",
    "Answer the question using a single word or phrase.",
    "Please answer yes or no.",
)


def make_model_class() -> type:
    """Return the class, made on VLMEvalKit's own base class."""
    from vlmeval.vlm.base import BaseModel

    class TwoPassVLM(BaseModel):
        """`"class": "VisRL", "pretrained": MODEL`, and options of `visrl eval` (two_pass.OPTIONS)."""

        INTERLEAVE = True

        def __init__(self, pretrained: str = "spotlight", steps: int | None = None, **options: Any) -> None:
            super().__init__()
            self.model = TwoPassModel(pretrained, steps, 1, options, f"{NAME}:")

        def generate_inner(self, message: list[dict[str, str]], dataset: str | None = None) -> str:
            return answer(self.model, message, dataset)

    return TwoPassVLM


def answer(model: TwoPassModel, message: list[dict[str, str]], dataset: str | None) -> str:
    """Return the reply to a message; "" where the box can't be read or the model refuses the picture.

    Raises VisRLError for a message that does not hold one picture.
    """
    pictures = [part["value"] for part in message if part["type"] == "image"]
    if len(pictures) != 1:
        raise VisRLError(
            f"{dataset or 'This benchmark'}: {len(pictures)} pictures in a question. {NAME} answers questions about "
            "one picture; leave out this benchmark."
        )
    text = "\n".join(part["value"].strip() for part in message if part["type"] == "text")
    question, ending = next((cut for one in _ENDINGS if (cut := cut_ending(text, one))[1]), (text, ""))
    request = TaskRequest(open_picture(pictures[0]), question, ending, "", model.config.max_new_tokens, ())
    (reply,) = model.answer_all([request])
    return "" if reply is None or isinstance(reply, RequestRefused) else reply


def main(arguments: list[str]) -> None:
    """Run VLMEvalKit's run.py with the rest of the arguments. Raises UsageError."""
    if not arguments or not Path(arguments[0]).is_file():
        raise UsageError("Expected the path of VLMEvalKit's run.py, then its own arguments.")
    sys.path.insert(0, str(Path(arguments[0]).resolve().parent))
    import vlmeval.vlm
    from vlmeval.config import supported_VLM

    setattr(vlmeval.vlm, NAME, make_model_class())
    supported_VLM[NAME] = getattr(vlmeval.vlm, NAME)
    sys.argv = arguments
    runpy.run_path(arguments[0], run_name="__main__")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except VisRLError as error:
        sys.exit(f"visrl: {error}")
