"""Hold the user's options for reading rows, and find the column of each field.

Used by jsonl.py and hf.py when they open a file; rows.py then reads each row accordingly.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from visrl_data.core.config import GOLD_FORMATS, GOLD_SPACES
from visrl_data.core.errors import UsageError, VisRLError
from visrl_data.core.images import MAX_IMAGE_PIXELS
from visrl_data.sources.conversations import COLUMNS as CONVERSATIONS
from visrl_data.sources.image_roots import open_roots

logger = logging.getLogger(__name__)
# Field -> the columns that are tried when `columns` does not name one; the first with a value counts.
DEFAULT_COLUMNS: dict[str, tuple[str, ...]] = {
    "question": ("question",),
    "answers": ("answers", "answer"),
    "image": ("image", "images"),
    "id": ("id",),
    "choices": ("choices", "options"),
    "boxes": ("boxes",),
    "box_space": ("box_space",),
    "source": ("source",),
    "source_id": ("source_id",),
    "source_url": ("source_url",),
    "license": ("license",),
    "ship_image": ("ship_image",),
}
REQUIRED = ("question", "answers", "image")
# What other data sets call a field: suggested, never taken.
_NEAR = {
    "question": ("q", "query", "prompt", "instruction", "text"),
    "answers": ("a", "gt", "ground_truth", "response", "target", "output", "label"),
    "image": ("img", "image_path", "image_file", "file_name", "filename", "file", "path", "picture"),
    "boxes": ("boxes", "box", "bbox", "bboxes", "bboxs", "gold_boxes"),
    "id": ("question_id", "questionId", "qid"),
    "license": ("licence",),
}
Columns = Mapping[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class SourceOptions:
    """How to read the rows of a source.

    images_root: the folder or archive that image paths are relative to, and may not leave, or several by name
    (image_roots.py; "" is for all others); None: the file's own folder. allow_urls: the hosts from which images at URLs
    are downloaded (urls.py); None: from none.
    columns: field -> column, for fields whose column has another name; "" for no column.
    gold_space: of the boxes, where a row does not say: "unit" (fractions) or "pixels" of the original image.
    gold_format: of the boxes: "xyxy" (two corners) or "xywh" (a corner, width and height, as in COCO).
    license: of rows that state none. ship_images: whether images may be redistributed; a "no", here or in a row,
    always wins. max_image_pixels: the largest width * height that is decoded.
    """

    images_root: str | Path | Mapping[str, str | Path] | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    gold_space: str = "unit"
    gold_format: str = "xyxy"
    license: str = ""
    ship_images: bool | None = None
    max_image_pixels: int = MAX_IMAGE_PIXELS
    allow_urls: str | None = None

    def __post_init__(self) -> None:
        unknown = [name for name in self.columns if name not in DEFAULT_COLUMNS]
        if unknown:
            raise UsageError(
                f"--columns {unknown[0]}={self.columns[unknown[0]]}: no such field. "
                f"Expected FIELD=COLUMN with a field of: {', '.join(DEFAULT_COLUMNS)}."
            )
        if self.gold_space not in GOLD_SPACES:
            raise UsageError(f"--gold-space {self.gold_space}: expected one of {', '.join(GOLD_SPACES)}.")
        if self.gold_format not in GOLD_FORMATS:
            raise UsageError(f"--gold-format {self.gold_format}: expected one of {', '.join(GOLD_FORMATS)}.")
        open_roots(self.images_root, Path())


def parse_columns(text: str) -> dict[str, str]:
    """Parse "question=q,answers=a" into {"question": "q", "answers": "a"}. Raises UsageError on another shape."""
    columns: dict[str, str] = {}
    for item in filter(None, (part.strip() for part in text.split(","))):
        name, equals, column = (part.strip() for part in item.partition("="))
        if not equals or not name or name in columns:
            raise UsageError(f"--columns {text}: expected FIELD=COLUMN,FIELD=COLUMN,... with each field once.")
        columns[name] = column
    return columns


def named_columns(options: SourceOptions, implied: Collection[str] = tuple(DEFAULT_COLUMNS)) -> Columns:
    """Return the columns that are tried for each field: the one that the options name, else the default names.

    implied: the fields that have default names in this kind of source; the others must be named.
    """
    columns = {name: defaults if name in implied else () for name, defaults in DEFAULT_COLUMNS.items()}
    return columns | {name: (column,) if column else () for name, column in options.columns.items()}


def check_columns(
    what: str, present: Collection[str], columns: Columns, options: SourceOptions, hint: str = ""
) -> None:
    """Raise one VisRLError for all missing columns, listing those that are present. hint: the end of its message.

    Warns of columns that are not read, and whose name is nearly that of an optional field.
    """
    if not options.columns.get("question") and any(name in present for name in CONVERSATIONS):
        present = {*present, "question", "answers"}
    missing = [name for name in REQUIRED if not any(column in present for column in columns[name])]
    absent = [name for name, column in options.columns.items() if column and column not in present]
    if missing or absent:
        fields = dict.fromkeys(missing + absent)
        raise VisRLError(
            f"{what}: no column for {', '.join(fields)}"
            + "".join(f"; there is no {options.columns[name]!r}" for name in absent)
            + f". Columns there: {', '.join(sorted(present)) or 'none'}. "
            f"Say which is which: --columns {','.join(f'{name}={_near(name, present)}' for name in fields)}{hint}"
        )
    for name in _NEAR:
        is_read = name in options.columns or any(column in present for column in columns[name])
        if not is_read and (near := _near(name, present)) != "COLUMN":
            logger.warning("%s: column %r is not read. To read it as %s: --columns %s=%s", what, near, name, name, near)


def _near(name: str, present: Collection[str]) -> str:
    """Return a column that may hold a field, or the word COLUMN."""
    return next((column for column in _NEAR.get(name, ()) if column in present), "COLUMN")
