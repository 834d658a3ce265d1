"""Ask a critic about the cases of a chunk of questions, as `visrl gen` asks it: the same request, the same reading."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from PIL import Image

from visrl_data.calibration.cases import SECOND_WORDING, ControlCase
from visrl_data.calibration.verdicts import CaseVerdict, make_verdict
from visrl_data.core import images
from visrl_data.core.config import GenConfig
from visrl_data.core.errors import VisRLError
from visrl_data.core.prompts import Prompt, PromptSet, standard_answer
from visrl_data.core.records import Question, Score
from visrl_data.engines import reply_cache
from visrl_data.engines.protocol import Role, Usage
from visrl_data.engines.refusals import isolate_refused
from visrl_data.pipeline.actor import image_groups
from visrl_data.pipeline.critics import as_score, read_score, score_request
from visrl_data.sources.protocol import Source


class Examiner:
    """Ask one critic. sample: the questions by row, without images. A server's replies are kept in `folder`.

    The cases that are asked twice have replies of their own: else the second would be the first one, kept.
    """

    def __init__(
        self,
        role: Role,
        prompts: PromptSet,
        source: Source,
        sample: Mapping[int, Question],
        config: GenConfig,
        folder: Path,
    ) -> None:
        self.role, self._source, self._questions, self._config = role, source, sample, config
        self._prompts = {"box": prompts.box_critic, "response": prompts.response_critic}
        self._journals = {again: folder / f"replies{'-again' * again}.jsonl" for again in (False, True)}

    def ask(self, cases: Mapping[int, Sequence[ControlCase]]) -> list[CaseVerdict]:
        """Return the verdicts on the cases of some questions, in order. cases: by row. Raises EngineLost."""
        rows = {self._questions[row].id: row for row in cases}
        return [
            verdict
            for group in image_groups([self._questions[row] for row in cases])
            for verdict in self._ask_group([case for question in group for case in cases[rows[question.id]]])
        ]

    def take_events(self) -> tuple[str, ...]:
        """Return what the engine has to say since the last chunk, a halved batch for one."""
        usage, self.role.engine.usage = self.role.engine.usage, Usage()
        return tuple(usage.events)

    def forget(self) -> None:
        """Drop the kept replies: their chunk is written."""
        for journal in self._journals.values():
            journal.unlink(missing_ok=True)

    def _ask_group(self, cases: Sequence[ControlCase]) -> list[CaseVerdict]:
        read = functools.cache(self._read_image)
        scores: dict[ControlCase, Score] = {}
        for again in (False, True):
            some = [case for case in cases if (case.variant == "repeat") == again]
            reply_cache.attach([self.role.engine], self._journals[again])
            shown = [(case, self._questions[case.row], _picture(case, read)) for case in some]
            scores |= zip(some, map(as_score, isolate_refused(shown, self._ask)), strict=True)
        return [make_verdict(case, self._questions[case.row].id, scores[case]) for case in cases]

    def _ask(self, shown: Sequence[tuple[ControlCase, Question, Image.Image]]) -> list[Score]:
        requests = []
        for case, question, picture in shown:
            texts = {"question": question.question, "answer": standard_answer(question.answers)}
            texts["response"] = case.response
            requests.append(score_request(self._prompt(case), texts, picture, self.role, self._config))
        return [read_score(reply, self._config) for (reply,) in self.role.engine.generate(requests)]

    def _prompt(self, case: ControlCase) -> Prompt:
        return (SECOND_WORDING if case.variant == "wording" else self._prompts)[case.critic]

    def _read_image(self, row: int) -> Image.Image:
        question = self._source.read(row)
        if not isinstance(question, Question) or question.image_sha256 != self._questions[row].image_sha256:
            raise VisRLError(f"{question.id}: its row or its image changed while it was asked about. Start again.")
        return images.decode(question.image)


def _picture(case: ControlCase, read: Callable[[int], Image.Image]) -> Image.Image:
    """Return what the critic is shown. A blank picture has the mean color of the question's image."""
    if case.shown is None and case.window is not None:
        color = read(case.row).resize((1, 1), Image.Resampling.BOX).getpixel((0, 0))
        return Image.new("RGB", (case.window[2], case.window[3]), color)
    image = read(case.row if case.shown is None else case.shown)
    return image if case.window is None else image.crop(case.window)
