"""Read the encoded image of a row, in the forms in which tables hold one.

bytes; {"bytes": ..., "path": ...}; a list of one of these
a path under --images-root, with / or \\, or file:///...; a tuple of alternative paths and URLs of one image
a URL, with --allow-urls
data:image/png;base64,..., or the base64 text alone
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote, urlsplit

from visrl_data.core.images import BadImage
from visrl_data.core.text import one_line
from visrl_data.sources.image_roots import Roots
from visrl_data.sources.urls import fetch_image, shown

_MAX_PATH = 4096  # characters: what Linux takes
# How the bytes of JPEG, PNG, GIF, WebP, BMP and TIFF begin, in base64.
_BASE64_STARTS = ("/9j/", "iVBORw0KGgo", "R0lGOD", "UklGR", "Qk", "SUkqA", "TU0AK")
_SHORTEST_BASE64 = 44  # characters, of the smallest image


def read_image(value: Any, roots: Roots, source: str, hosts: str | None) -> bytes:
    """Return the encoded image of a row. source: the row's set; hosts: as --allow-urls names them. Raises BadImage."""
    if isinstance(value, list):
        if _is_array(value):
            raise BadImage(
                "image_unreadable", "an array of numbers: expected an encoded image (PNG, JPEG, ...) or a path"
            )
        if len(value) > 1:
            raise BadImage("several_images", f"{len(value)} images; a question is about one")
        value = value[0] if value else None
    if isinstance(value, Mapping):
        value = value.get("bytes") or value.get("path") or value.get("url")
    if isinstance(value, bytes):
        return value
    names = value if isinstance(value, tuple) else (value,)
    if not names or not all(isinstance(name, str) for name in names):
        raise BadImage("image_missing", f"expected an image or its path, got {value!r}"[:200])
    inline = _inline(names[0])
    if inline is not None:
        return inline
    too_long = next((name for name in names if len(name) > _MAX_PATH), None)
    if too_long is not None:
        detail = f"{one_line(too_long, 60)} has {len(too_long)} characters: neither a path nor an image in base64"
        raise BadImage("image_missing", detail)
    return _read_named([_local(name) for name in names], roots, source, hosts)


def _is_array(value: list[Any]) -> bool:
    """Return whether it is a picture as numbers: [[[r, g, b], ...], ...]."""
    first: Any = value
    while isinstance(first, list) and first:
        first = first[0]
    return isinstance(first, (int, float))


def _inline(text: str) -> bytes | None:
    """Return the image that a text is in base64; None for a text that is none."""
    is_data = text[:5].lower() == "data:"
    if not is_data and not (len(text) >= _SHORTEST_BASE64 and text.startswith(_BASE64_STARTS)):
        return None
    head, _, content = text.partition(",") if is_data else ("", "", text)
    try:
        if is_data and not head.endswith(";base64"):
            raise binascii.Error("expected data:image/...;base64,...")
        return base64.b64decode("".join(content.split()), validate=True)
    except (binascii.Error, ValueError) as error:  # a path, too, may begin as a JPEG does
        if is_data:
            raise BadImage("image_unreadable", f"{one_line(text, 40)}: {error}") from error
        return None


def is_inline(text: Any) -> bool:
    """Return whether a text is an image in base64, or says that it is."""
    try:
        return isinstance(text, str) and _inline(text) is not None
    except BadImage:
        return True


def _local(name: str) -> str:
    """Return the path of a file:// address, other names as they are."""
    if name[:7].lower() != "file://":
        return name
    try:
        parts = urlsplit(name)
    except ValueError:  # refused as any other address is
        return name
    return unquote(parts.path) if parts.netloc in ("", "localhost") else name


def _read_named(names: list[str], roots: Roots, source: str, hosts: str | None) -> bytes:
    paths, urls = [name for name in names if "://" not in name], [name for name in names if "://" in name]
    if paths:
        try:
            return roots.read(paths, source)
        except BadImage as error:
            if error.reason != "image_missing" or not urls or hosts is None:
                raise
    if not urls[0].lower().startswith(("http://", "https://")):
        hint = "not read; download the images and name their folder with --images-root"
        raise BadImage("image_url_refused", f"{shown(urls[0])} is {hint}")
    if hosts is None:
        hint = "gen and eval download it with --allow-urls HOST"
        raise BadImage("image_url_refused", f"{shown(urls[0])} is a URL; {hint}")
    return fetch_image(urls[0], hosts)
