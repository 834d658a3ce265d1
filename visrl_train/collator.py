"""Collate examples into batches, for all stages. Examples are plain rows and are never changed.

    SFT      [focus | answer turns of the batch]
    RL1      [chosen boxes | rejected boxes]
    RL2      [chosen boxes, chosen responses | rejected boxes, rejected responses]

A preference batch of P pairs, of which Q train the response, has 2 (P + Q) rows in TRL's order: all that is
chosen, then all that is rejected. The chosen side is the pair's win, the rejected side its lose. `has_response` (P,)
says which pairs the Q rows belong to; it comes first, so that averages over batches count pairs. Where the model
supports it, the rows of a pair are then merged into one (branches.py); `completions` keeps the order.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL.Image import Image

from visrl_data.core import images
from visrl_data.core.crops import cut_stored_crop
from visrl_data.core.prompts import PromptSet
from visrl_data.engines.refusals import RequestRefused
from visrl_train.branches import Branches
from visrl_train.pairs import Pair
from visrl_train.tokenization import Turn, Turns

logger = logging.getLogger(__name__)

Crop = tuple[int, int, int, int]
ReadImage = Callable[[str], bytes]
# (pair id, "focus" | "response") -> log-probabilities of the chosen and the rejected completion.
ReferenceTable = Mapping[tuple[str, str], tuple[float, float]]


class ImageCache:
    """The images of one batch, each decoded and cropped once: the same image is the same object."""

    def __init__(self, read_image: ReadImage) -> None:
        self._read_image = read_image
        self._images: dict[tuple[str, Crop | None], Image] = {}

    def get(self, sha: str, crop: Crop | None = None) -> Image:
        """Return an image by its bytes' sha256, or a crop of it (pixels left, top, right, bottom)."""
        if (sha, crop) not in self._images:
            self._images[sha, crop] = (
                images.decode(self._read_image(sha)) if crop is None else cut_stored_crop(self.get(sha), crop)
            )
        return self._images[sha, crop]


@dataclass(frozen=True, slots=True)
class PairCollator:
    """Collates pairs into a preference batch.

    response_crop: None trains the box alone (RL1, Eq. 5); "win" adds both responses under the crop of the win
    box (RL2, Eq. 7); "own" gives each response its own box's crop. reference: log-probabilities to use instead of a
    reference model. branches: how the rows of a pair are merged; None leaves them separate.
    """

    turns: Turns
    prompts: PromptSet
    read_image: ReadImage
    response_crop: str | None = None
    reference: ReferenceTable | None = None
    branches: Branches | None = None

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        pairs = [Pair(**example) for example in examples]
        with_response = [pair for pair in pairs if self.response_crop and pair.has_response]
        cache = ImageCache(self.read_image)
        rows = [
            turn
            for side in ("win", "lose")
            for turn in (
                *(self._focus(pair, side, cache) for pair in pairs),
                *(self._response(pair, side, cache) for pair in with_response),
            )
        ]
        flags = [bool(self.response_crop and pair.has_response) for pair in pairs]
        encoded = self.turns.encode(rows)
        if self.branches is not None:
            encoded = self.branches.join(encoded, _by_pair(flags))
        return {"has_response": torch.tensor(flags), **encoded, **self._reference(pairs, with_response)}

    def _focus(self, pair: Pair, side: str, cache: ImageCache) -> Turn:
        parts = self.prompts.focus.parts(question=pair.question)
        return Turn(f"{pair.id} ({side} box)", parts, (cache.get(pair.image),), getattr(pair, f"{side}_box"))

    def _response(self, pair: Pair, side: str, cache: ImageCache) -> Turn:
        crop = getattr(pair, f"{side}_crop" if self.response_crop == "own" else "win_crop")
        parts = self.prompts.answer.parts(question=pair.question)
        reply = getattr(pair, f"{side}_response")
        pictures = (cache.get(pair.image), cache.get(pair.image, tuple(crop)))
        return Turn(f"{pair.id} ({side} response)", parts, pictures, reply)

    def _reference(self, pairs: list[Pair], with_response: list[Pair]) -> dict[str, torch.Tensor]:
        if self.reference is None:
            return {}
        keys = [(pair.id, "focus") for pair in pairs] + [(pair.id, "response") for pair in with_response]
        chosen, rejected = torch.tensor([self.reference[key] for key in keys]).unbind(dim=1)
        return {"ref_chosen_logps": chosen, "ref_rejected_logps": rejected}


def _by_pair(has_response: list[bool]) -> list[list[int]]:
    """Return the indices of the rows of each pair: its boxes, then its responses."""
    half, responses = len(has_response) + sum(has_response), itertools.count(len(has_response))
    groups = []
    for i, with_response in enumerate(has_response):
        chosen = [i, next(responses)] if with_response else [i]
        groups.append([row for index in chosen for row in (index, half + index)])
    return groups


@dataclass(frozen=True, slots=True)
class SFTCollator:
    """Collates rows of sft.SFTExample into input_ids and labels (B, L); -100 where there is no loss.

    A row that the processor or the model's context does not take is left out, with a warning. Raises RequestRefused
    where no row is left.
    """

    turns: Turns
    prompts: PromptSet
    read_image: ReadImage

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        cache = ImageCache(self.read_image)
        turns = [self._turn(example, cache) for example in examples]
        try:
            return with_labels(self.turns.encode(turns))
        except RequestRefused:
            kept = [turn for turn in turns if self._is_taken(turn)]
            if not kept:
                raise
            return with_labels(self.turns.encode(kept))

    def _is_taken(self, turn: Turn) -> bool:
        try:
            self.turns.encode([turn])
        except RequestRefused as refusal:
            logger.warning("Left out of its batch: %s", refusal)
            return False
        return True

    def _turn(self, row: Mapping[str, Any], cache: ImageCache) -> Turn:
        crop = () if row["crop"] is None else (cache.get(row["image"], tuple(row["crop"])),)
        prompt = self.prompts.focus if row["crop"] is None else self.prompts.answer
        pictures = (cache.get(row["image"]), *crop)
        return Turn(row["id"], prompt.parts(question=row["question"]), pictures, row["reply"])


def with_labels(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return an encoded batch with labels (B, L) instead of completion_mask."""
    mask = batch.pop("completion_mask")
    return {**batch, "labels": batch["input_ids"].masked_fill(mask == 0, -100)}
