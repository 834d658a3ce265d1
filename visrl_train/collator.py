"""Examples -> batches, for all stages. Examples are plain rows and are never changed.

    SFT      [focus | answer turns of the batch]
    RL1      [win boxes | lose boxes]
    RL2      [win boxes, win responses | lose boxes, lose responses]

A preference batch of P pairs, of which Q train the response, has 2 (P + Q) rows: TRL's order, all that is
chosen, then all that is rejected. `has_response` (P,) says which pairs the Q rows belong to; it comes first,
so that averages over batches count pairs. Where the model can, the rows of a pair then become one (branches.py);
`completions` keeps the order.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL.Image import Image

from visrl_data.core import images
from visrl_data.core.prompts import PromptSet
from visrl_train.branches import Branches
from visrl_train.pairs import Pair
from visrl_train.tokenization import Turn, Turns

Crop = tuple[int, int, int, int]
ReadImage = Callable[[str], bytes]
# (pair id, "focus" | "response") -> log-probabilities of the win's and the lose's completion.
ReferenceTable = Mapping[tuple[str, str], tuple[float, float]]


class Album:
    """The pictures of one batch, each decoded and cropped once: the same picture is the same object."""

    def __init__(self, read_image: ReadImage) -> None:
        self._read_image = read_image
        self._pictures: dict[tuple[str, Crop | None], Image] = {}

    def picture(self, sha: str, crop: Crop | None = None) -> Image:
        """An image by its bytes' sha256, or a crop of it (pixels left, top, right, bottom)."""
        if (sha, crop) not in self._pictures:
            made = images.decode(self._read_image(sha)) if crop is None else self.picture(sha).crop(crop)
            self._pictures[sha, crop] = made
        return self._pictures[sha, crop]


@dataclass(frozen=True, slots=True)
class PairCollator:
    """Pairs -> a preference batch.

    response_crop: None trains the box alone (Eq. 6); "win" adds both responses under the crop of the win
    box (Eq. 8); "own" gives each response its own box's crop. reference: log-probabilities to use in
    place of a reference model. branches: how the rows of a pair are joined; None leaves them apart.
    """

    turns: Turns
    prompts: PromptSet
    read_image: ReadImage
    response_crop: str | None = None
    reference: ReferenceTable | None = None
    branches: Branches | None = None

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        pairs = [Pair(**example) for example in examples]
        answered = [pair for pair in pairs if self.response_crop and pair.has_response]
        album = Album(self.read_image)
        rows = [
            turn
            for side in ("win", "lose")
            for turn in (
                *(self._focus(pair, side, album) for pair in pairs),
                *(self._response(pair, side, album) for pair in answered),
            )
        ]
        flags = [bool(self.response_crop and pair.has_response) for pair in pairs]
        encoded = self.turns.encode(rows)
        if self.branches is not None:
            encoded = self.branches.join(encoded, _by_pair(flags))
        return {"has_response": torch.tensor(flags), **encoded, **self._reference(pairs, answered)}

    def _focus(self, pair: Pair, side: str, album: Album) -> Turn:
        parts = self.prompts.focus.parts(question=pair.question)
        return Turn(f"{pair.id} ({side} box)", parts, (album.picture(pair.image),), getattr(pair, f"{side}_box"))

    def _response(self, pair: Pair, side: str, album: Album) -> Turn:
        crop = getattr(pair, f"{side}_crop" if self.response_crop == "own" else "win_crop")
        parts = self.prompts.answer.parts(question=pair.question)
        reply = getattr(pair, f"{side}_response")
        pictures = (album.picture(pair.image), album.picture(pair.image, tuple(crop)))
        return Turn(f"{pair.id} ({side} response)", parts, pictures, reply)

    def _reference(self, pairs: list[Pair], answered: list[Pair]) -> dict[str, torch.Tensor]:
        if self.reference is None:
            return {}
        keys = [(pair.id, "focus") for pair in pairs] + [(pair.id, "response") for pair in answered]
        win, lose = torch.tensor([self.reference[key] for key in keys]).unbind(dim=1)
        return {"ref_chosen_logps": win, "ref_rejected_logps": lose}


def _by_pair(has_response: list[bool]) -> list[list[int]]:
    """The numbers of the rows of each pair: its boxes, then its responses."""
    half, responses = len(has_response) + sum(has_response), itertools.count(len(has_response))
    groups = []
    for i, answered in enumerate(has_response):
        wins = [i, next(responses)] if answered else [i]
        groups.append([row for win in wins for row in (win, half + win)])
    return groups


@dataclass(frozen=True, slots=True)
class LessonCollator:
    """Rows of sft.Lesson -> input_ids and labels (B, L); -100 where nothing is to be learnt."""

    turns: Turns
    prompts: PromptSet
    read_image: ReadImage

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        album = Album(self.read_image)
        return with_labels(self.turns.encode([self._turn(example, album) for example in examples]))

    def _turn(self, row: Mapping[str, Any], album: Album) -> Turn:
        crop = () if row["crop"] is None else (album.picture(row["image"], tuple(row["crop"])),)
        prompt = self.prompts.focus if row["crop"] is None else self.prompts.answer
        pictures = (album.picture(row["image"]), *crop)
        return Turn(row["id"], prompt.parts(question=row["question"]), pictures, row["reply"])


def with_labels(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """An encoded batch with labels (B, L) in place of completion_mask."""
    learnt = batch.pop("completion_mask")
    return {**batch, "labels": batch["input_ids"].masked_fill(learnt == 0, -100)}
