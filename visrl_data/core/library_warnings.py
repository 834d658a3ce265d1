"""Which warnings of libraries the commands (without --verbose) and their workers leave out."""

from __future__ import annotations

import warnings


def ignore_library_warnings() -> None:
    """Ignore what libraries say about their own next version, and Pillow's advice on large pictures.

    Pillow warns from 89 million pixels on. The limit of core/images.py is lower, and its refusal says what is wrong.
    """
    from PIL.Image import DecompressionBombWarning

    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=DecompressionBombWarning)
