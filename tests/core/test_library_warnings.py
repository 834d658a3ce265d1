"""Two kinds of warnings are left out, and no others."""

import warnings

import pytest
from PIL import Image

from visrl_data.core.images import MAX_IMAGE_PIXELS
from visrl_data.core.library_warnings import ignore_library_warnings


@pytest.mark.parametrize("kind", [FutureWarning, Image.DecompressionBombWarning, UserWarning, RuntimeWarning])
def test_only_these_are_ignored(kind):
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        ignore_library_warnings()
        warnings.warn("of a library", kind, stacklevel=1)
    assert bool(shown) == (kind in (UserWarning, RuntimeWarning))


def test_our_limit_is_the_lower_one():
    assert MAX_IMAGE_PIXELS < Image.MAX_IMAGE_PIXELS, "each picture of which Pillow warns is refused"
