"""Read stored images by checksum, and encode those that training examples show.

Used wherever rows get their pixels: of a run's folder, of a dataset, of a folder of files (rebuild.py). Original
bytes are passed on unchanged; a crop is a lossless PNG of the original image.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Iterator
from io import BytesIO
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image

from visrl_data.core.crops import cut_stored_crop
from visrl_data.core.errors import VisRLError
from visrl_data.core.images import FORMATS, decode, exif_orientation
from visrl_data.core.reading import report_damage

Crop = tuple[int, int, int, int]
Pixels = Callable[[str], bytes]
"""sha256 of an original image's encoded bytes -> those bytes."""

_ADVICE = "Put back a copy of the run or the dataset."
_BATCH = 4  # pictures held at a time
_CACHED_GROUPS = 2  # row groups kept in memory: questions about one image are neighbors


class StoredImages:
    """The images in parquet shards: a run's `images/`, or a dataset's `data/images/`.

    sizes: bytes of each image by sha256, in stored order; an image that occurs twice counts once.
    """

    def __init__(self, shards: Iterable[Path]) -> None:
        self.sizes: dict[str, int] = {}
        self._locations: dict[str, tuple[Path, int, int]] = {}
        self._cache: OrderedDict[tuple[Path, int], pa.ChunkedArray] = OrderedDict()
        for shard in shards:
            with report_damage(shard, _ADVICE), pq.ParquetFile(shard) as file:
                if not any({"sha256", name} <= set(file.schema_arrow.names) for name in ("bytes", "image")):
                    raise ValueError("expected the columns sha256 and bytes, or image")
                for group in range(file.num_row_groups):
                    self._index(shard, group, file.read_row_group(group))

    def _index(self, shard: Path, group: int, table: pa.Table) -> None:
        sizes = pc.binary_length(_encoded(table))
        for row, (sha, size) in enumerate(zip(table["sha256"].to_pylist(), sizes.to_pylist(), strict=True)):
            if sha not in self._locations:
                self._locations[sha], self.sizes[sha] = (shard, group, row), size

    def __call__(self, sha256: str) -> bytes:
        """Return the encoded bytes of an image. Raises VisRLError when there is no such image."""
        if sha256 not in self._locations:
            raise VisRLError(f"The image {sha256} is not among the stored images: files of the run were changed.")
        shard, group, row = self._locations[sha256]
        if (shard, group) not in self._cache:
            with report_damage(shard, _ADVICE), pq.ParquetFile(shard) as file:
                self._cache[shard, group] = _encoded(file.read_row_group(group))
            if len(self._cache) > _CACHED_GROUPS:
                self._cache.popitem(last=False)
        self._cache.move_to_end((shard, group))
        data: bytes = self._cache[shard, group][row].as_py()
        return data


def read_images(shards: Iterable[Path], wanted: Collection[str]) -> Iterator[tuple[str, bytes]]:
    """Yield (sha256, encoded bytes) of the wanted images, as they are stored; a few are in memory at a time."""
    for shard in shards:
        with report_damage(shard, _ADVICE), pq.ParquetFile(shard) as file:
            column = "bytes" if "bytes" in file.schema_arrow.names else "image"
            for group in range(file.num_row_groups):
                names = file.read_row_group(group, ["sha256"])["sha256"].to_pylist()
                if not any(name in wanted for name in names):
                    continue
                for batch in file.iter_batches(_BATCH, [group], ["sha256", column]):
                    table = pa.Table.from_batches([batch])
                    for name, data in zip(table["sha256"].to_pylist(), _encoded(table), strict=True):
                        if name in wanted:
                            yield name, data.as_py()


def stored_names(shards: Iterable[Path]) -> set[str]:
    """Return the sha256 of all stored images, without reading one."""
    names: set[str] = set()
    for shard in shards:
        with report_damage(shard, _ADVICE):
            names.update(pq.read_table(shard, columns=["sha256"])["sha256"].to_pylist())
    return names


def _encoded(table: pa.Table) -> pa.ChunkedArray:
    """Return the column of encoded bytes: `bytes` in a run, `image.bytes` in a dataset."""
    return table["bytes"] if "bytes" in table.column_names else pc.struct_field(table["image"], "bytes")


def upright(data: bytes) -> bytes:
    """Return bytes that every loader opens as the original image: `data` itself, or a PNG of it.

    A PNG where the file is rotated by its EXIF block, transparent, or not 8-bit RGB: loaders differ in how they read
    those, and boxes refer to the original image. Raises BadImage.
    """
    with Image.open(BytesIO(data), formats=FORMATS) as picture:
        plain = picture.mode == "RGB" and not picture.has_transparency_data and exif_orientation(picture) == 1
    return data if plain else png(decode(data))


def crop(data: bytes, box: Crop) -> bytes:
    """Encode the pixels (left, top, right, bottom) of the original image as PNG. Raises BadImage, VisRLError."""
    return png(cut_stored_crop(decode(data), box))


def png(image: Image.Image) -> bytes:
    """Encode an image as PNG."""
    buffer = BytesIO()
    image.save(buffer, format="PNG", compress_level=6)
    return buffer.getvalue()


def suffix(data: bytes) -> str:
    """Return the file name suffix of an encoded image."""
    with Image.open(BytesIO(data), formats=FORMATS) as picture:
        return {"JPEG": ".jpg", "TIFF": ".tif"}.get(str(picture.format), f".{str(picture.format).lower()}")
