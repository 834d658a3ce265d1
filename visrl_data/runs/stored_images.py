"""Stored pictures by checksum, and the pictures that training rows are made of.

Used wherever rows get their pixels: dataset.py from a run's folder, rebuild.py from a folder of files,
export.py from either. Original bytes are handed on as they are; a crop is lossless PNG of the original image.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from io import BytesIO
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image

from visrl_data.core.errors import VisRLError
from visrl_data.core.images import FORMATS, decode, exif_orientation

Crop = tuple[int, int, int, int]
Pixels = Callable[[str], bytes]
"""sha256 of an original image's encoded bytes -> those bytes."""

_HELD_GROUPS = 2  # row groups kept in memory: questions about one image are neighbours


class StoredImages:
    """The pictures in parquet shards: a run's `images/`, or a dataset's `data/images/`.

    sizes: bytes of each picture by sha256, in stored order; a picture that occurs twice counts once.
    """

    def __init__(self, shards: Iterable[Path]) -> None:
        self.sizes: dict[str, int] = {}
        self._place: dict[str, tuple[Path, int, int]] = {}
        self._held: OrderedDict[tuple[Path, int], pa.ChunkedArray] = OrderedDict()
        for shard in shards:
            with pq.ParquetFile(shard) as file:
                for group in range(file.num_row_groups):
                    self._index(shard, group, file.read_row_group(group))

    def _index(self, shard: Path, group: int, table: pa.Table) -> None:
        sizes = pc.binary_length(_encoded(table))
        for row, (sha, size) in enumerate(zip(table["sha256"].to_pylist(), sizes.to_pylist(), strict=True)):
            if sha not in self._place:
                self._place[sha], self.sizes[sha] = (shard, group, row), size

    def __call__(self, sha256: str) -> bytes:
        """Raises VisRLError when there is no such picture."""
        if sha256 not in self._place:
            raise VisRLError(f"The picture {sha256} is not among the stored images: files of the run were changed.")
        shard, group, row = self._place[sha256]
        if (shard, group) not in self._held:
            with pq.ParquetFile(shard) as file:
                self._held[shard, group] = _encoded(file.read_row_group(group))
            if len(self._held) > _HELD_GROUPS:
                self._held.popitem(last=False)
        self._held.move_to_end((shard, group))
        data: bytes = self._held[shard, group][row].as_py()
        return data


def _encoded(table: pa.Table) -> pa.ChunkedArray:
    """The column of encoded bytes: `bytes` in a run, `image.bytes` in a dataset."""
    return table["bytes"] if "bytes" in table.column_names else pc.struct_field(table["image"], "bytes")


def upright(data: bytes) -> bytes:
    """Bytes that any loader opens as the original image: the given ones, or a PNG of it.

    A PNG is made when the file is turned by its EXIF block, transparent, or not 8-bit RGB: loaders differ in
    what they make of those, and boxes refer to the original image. Raises BadImage.
    """
    with Image.open(BytesIO(data), formats=FORMATS) as picture:
        plain = picture.mode == "RGB" and not picture.has_transparency_data and exif_orientation(picture) == 1
    return data if plain else png(decode(data))


def crop(data: bytes, box: Crop) -> bytes:
    """PNG of the pixels (left, top, right, bottom) of the original image. Raises BadImage."""
    return png(decode(data).crop(box))


def png(image: Image.Image) -> bytes:
    buffer = BytesIO()
    image.save(buffer, format="PNG", compress_level=6)
    return buffer.getvalue()


def suffix(data: bytes) -> str:
    """The file name suffix of an encoded picture."""
    with Image.open(BytesIO(data), formats=FORMATS) as picture:
        return {"JPEG": ".jpg", "TIFF": ".tif"}.get(str(picture.format), f".{str(picture.format).lower()}")
