"""Examples -> batches, for all stages. Examples are plain rows and are never changed.

    SFT      [focus | answer turns of the batch]
    RL1      [win boxes | lose boxes]
    RL2      [win boxes, win responses | lose boxes, lose responses]

A preference batch of P pairs, of which Q train the response, has 2 (P + Q) rows: TRL's order, all that is
chosen, then all that is rejected. `has_response` (P,) says which pairs the Q rows belong to; it comes first,
so that averages over batches count pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL.Image import Image

from visrl_data import images
from visrl_data.prompts import PromptSet
from visrl_train.formats import Pair
from visrl_train.turns import Turn, Turns

ReadImage = Callable[[str], bytes]
# (pair id, "focus" | "response") -> log-probabilities of the win's and the lose's completion.
ReferenceTable = Mapping[tuple[str, str], tuple[float, float]]


@dataclass(frozen=True, slots=True)
class PairCollator:
    """Pairs -> a preference batch.

    response_crop: None trains the box alone (Eq. 6); "win" adds both responses under the crop of the win
    box (Eq. 8); "own" gives each response its own box's crop. reference: log-probabilities to use in
    place of a reference model.
    """

    turns: Turns
    prompts: PromptSet
    read_image: ReadImage
    response_crop: str | None = None
    reference: ReferenceTable | None = None

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        pairs = [Pair(**example) for example in examples]
        answered = [pair for pair in pairs if self.response_crop and pair.has_response]
        pictures = {pair.image: images.decode(self.read_image(pair.image)) for pair in pairs}
        rows = [
            turn
            for side in ("win", "lose")
            for turn in (
                *(self._focus(pair, side, pictures[pair.image]) for pair in pairs),
                *(self._response(pair, side, pictures[pair.image]) for pair in answered),
            )
        ]
        flags = torch.tensor([bool(self.response_crop and pair.has_response) for pair in pairs])
        return {"has_response": flags, **self.turns.encode(rows), **self._reference(pairs, answered)}

    def _focus(self, pair: Pair, side: str, picture: Image) -> Turn:
        parts = self.prompts.focus.parts(question=pair.question)
        return Turn(f"{pair.id} ({side} box)", parts, (picture,), getattr(pair, f"{side}_box"))

    def _response(self, pair: Pair, side: str, picture: Image) -> Turn:
        crop = getattr(pair, f"{side}_crop" if self.response_crop == "own" else "win_crop")
        parts = self.prompts.answer.parts(question=pair.question)
        reply = getattr(pair, f"{side}_response")
        return Turn(f"{pair.id} ({side} response)", parts, (picture, picture.crop(tuple(crop))), reply)

    def _reference(self, pairs: list[Pair], answered: list[Pair]) -> dict[str, torch.Tensor]:
        if self.reference is None:
            return {}
        keys = [(pair.id, "focus") for pair in pairs] + [(pair.id, "response") for pair in answered]
        win, lose = torch.tensor([self.reference[key] for key in keys]).unbind(dim=1)
        return {"ref_chosen_logps": win, "ref_rejected_logps": lose}


@dataclass(frozen=True, slots=True)
class LessonCollator:
    """Rows of sft.Lesson -> input_ids and labels (B, L); -100 where nothing is to be learnt."""

    turns: Turns
    prompts: PromptSet
    read_image: ReadImage

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        batch = self.turns.encode([self._turn(example) for example in examples])
        learnt = batch.pop("completion_mask")
        return {**batch, "labels": batch["input_ids"].masked_fill(learnt == 0, -100)}

    def _turn(self, row: Mapping[str, Any]) -> Turn:
        picture = images.decode(self.read_image(row["image"]))
        crop = () if row["crop"] is None else (picture.crop(tuple(row["crop"])),)
        prompt = self.prompts.focus if row["crop"] is None else self.prompts.answer
        return Turn(row["id"], prompt.parts(question=row["question"]), (picture, *crop), row["reply"])
