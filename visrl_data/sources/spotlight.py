"""Questions of Spotlight, the drawn world that ships with the project: no files, no network, no end.

The default source. Row i of a split is always the same question about the same pixels; the image is stored
as PNG, so its bytes are the same wherever Pillow and its zlib are the same version.
"""

from __future__ import annotations

import hashlib
from io import BytesIO

from visrl_data.boxes import Box
from visrl_data.errors import VisRLError
from visrl_data.images import sha256
from visrl_data.records import Drop, Question
from visrl_data.spotlight import world

NAME = "spotlight"
LICENSE = "CC0-1.0"
DEFAULT_ROWS = 200  # when no limit is given: the world has no end
_PROBES = 16  # rows that the fingerprint draws


class SpotlightSource:
    """The first `limit` questions of a split of the drawn world, as a Source.

    ship_images False withholds the images, which are otherwise free to ship. Raises VisRLError when there is
    no such split, or a limit beyond the world's range.
    """

    name = NAME

    def __init__(self, split: str, limit: int | None, ship_images: bool | None = None) -> None:
        if split not in world.SPLITS:
            raise VisRLError(f"spotlight has no split {split!r}. Expected one of: {', '.join(world.SPLITS)}.")
        if limit is not None and limit > world.RANGE:
            raise VisRLError(f"--limit {limit}: a split of spotlight has {world.RANGE} questions.")
        self.split = split
        self._count = DEFAULT_ROWS if limit is None else limit
        self._ship = ship_images is not False

    def fingerprint(self) -> str:
        """sha256 of the first questions, answers, boxes and pixels: it changes when the world draws otherwise."""
        digest = hashlib.sha256()
        for i in range(_PROBES):
            drawn = world.example(self.split, i)
            digest.update(repr((drawn.id, drawn.question, drawn.answer, drawn.gold_box, drawn.image.size)).encode())
            digest.update(drawn.image.tobytes())
        return digest.hexdigest()

    def __len__(self) -> int:
        return self._count

    def ids(self) -> list[str]:
        return [f"{NAME}-{self.split}-{i}" for i in range(self._count)]

    def read(self, i: int) -> Question | Drop:
        """Never a Drop. Raises IndexError."""
        if not 0 <= i < self._count:
            raise IndexError(f"row {i} of {self._count}")
        drawn = world.example(self.split, i)
        buffer = BytesIO()
        drawn.image.save(buffer, format="PNG", compress_level=6)
        data = buffer.getvalue()
        return Question(
            id=drawn.id,
            source=NAME,
            split=self.split,
            question=drawn.question,
            answers=(drawn.answer,),
            image=data,
            image_sha256=sha256(data),
            width=drawn.image.width,
            height=drawn.image.height,
            gold_boxes=(Box(*drawn.gold_box),),
            source_id=str(i),
            license=LICENSE,
            ship_image=self._ship,
        )
