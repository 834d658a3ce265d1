"""Draw questions of Spotlight, the world that ships with the project: no files, no network, no end.

The default source. Row i of a split is always the same question about the same pixels; the image is stored as PNG,
so its bytes are the same wherever Pillow and its zlib are the same version. A row's `source` names its level, so that
every table by source is one by level too: spotlight-attribute,
spotlight-relation, spotlight-superlative.
"""

from __future__ import annotations

import hashlib
from io import BytesIO
from typing import Any

from visrl_data.core.boxes import Box
from visrl_data.core.errors import VisRLError
from visrl_data.core.images import sha256
from visrl_data.core.records import Drop, Question
from visrl_data.sources.protocol import check_index
from visrl_data.spotlight import world

NAME = "spotlight"
OPTIONS = ("level", "distractors", "clutter")
LICENSE = "CC0-1.0"
DEFAULT_ROWS = 200  # when no limit is given: the world has no end
_PROBES = 16  # rows that the fingerprint draws


class SpotlightSource:
    """The first `limit` questions of a split of the drawn world, as a Source.

    settings: "" or settings of the world, like "level=relation,distractors=7,clutter=20" (see world.make_example).
    ship_images False withholds the images, which are otherwise free to ship. Raises VisRLError when there is
    no such split or setting, or a limit beyond the world's range.
    """

    name = NAME

    def __init__(self, split: str, limit: int | None, ship_images: bool | None = None, settings: str = "") -> None:
        if split not in world.SPLITS:
            raise VisRLError(f"spotlight has no split {split!r}. Expected one of: {', '.join(world.SPLITS)}.")
        if limit is not None and limit > world.RANGE:
            raise VisRLError(f"--limit {limit}: a split of spotlight has {world.RANGE} questions.")
        self.split = split
        self._settings = _parse_settings(settings)
        self._stem = "-".join([NAME, *(f"{name}={value}" for name, value in self._settings.items()), split])
        self._count = DEFAULT_ROWS if limit is None else limit
        self._ship = ship_images is not False

    def fingerprint(self) -> str:
        """Compute the sha256 of the first questions, answers, boxes and pixels; it changes when the drawing changes."""
        digest = hashlib.sha256()
        for i in range(_PROBES):
            example = world.make_example(self.split, i, **self._settings)
            row = (f"{self._stem}-{i}", example.question, example.answer, example.gold_box, example.image.size)
            digest.update(repr(row).encode())
            digest.update(example.image.tobytes())
        return digest.hexdigest()

    def __len__(self) -> int:
        return self._count

    def ids(self) -> list[str]:
        return [f"{self._stem}-{i}" for i in range(self._count)]

    def read(self, i: int) -> Question | Drop:
        """Draw row i, which is never a Drop. Raises IndexError."""
        check_index(i, self._count)
        example = world.make_example(self.split, i, **self._settings)
        buffer = BytesIO()
        example.image.save(buffer, format="PNG", compress_level=6)
        data = buffer.getvalue()
        return Question(
            id=f"{self._stem}-{i}",
            source=f"{NAME}-{example.level}",
            split=self.split,
            question=example.question,
            answers=(example.answer,),
            image=data,
            image_sha256=sha256(data),
            width=example.image.width,
            height=example.image.height,
            gold_boxes=(Box(*example.gold_box),),
            source_id=str(i),
            license=LICENSE,
            ship_image=self._ship,
        )


def _parse_settings(text: str) -> dict[str, Any]:
    """Return the keyword arguments of world.make_example that text holds, after a trial."""
    values: dict[str, Any] = {}
    try:
        for item in filter(None, (part.strip() for part in text.split(","))):
            name, _, value = item.partition("=")
            if name not in OPTIONS or name in values:
                raise ValueError(f"{item!r} is not {'=, '.join(OPTIONS)}=, each at most once")
            if name != "level" and not value.isdecimal():
                raise ValueError(f"{item!r} is not a whole number")
            values[name] = value if name == "level" else int(value)
        settings = {name: values[name] for name in OPTIONS if name in values}
        world.make_example(world.SPLITS[0], 0, **settings)
    except ValueError as error:
        raise VisRLError(
            f"--source {NAME}:{text}: {error}. An example: {NAME}:level=relation,distractors=7,clutter=20."
        ) from error
    return settings
