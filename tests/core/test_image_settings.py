"""A difference in how pictures are shown is refused where it moves boxes, and said where it does not."""

import pytest

from visrl_data.core.errors import VisRLError
from visrl_data.core.image_settings import check_images

QWEN = {
    "family": "Qwen2.5-VL",
    "resize": "resized",
    "center_crop": False,
    "bounds": {"min_pixels": 3136, "max_pixels": 12845056, "multiple_of": 28},
    "max_pixels": None,
}
SMALL = {**QWEN, "bounds": {**QWEN["bounds"], "max_pixels": 802816}, "max_pixels": 802816}
PADDED = {**QWEN, "family": "LLaVA-1.5", "resize": "padded", "bounds": {"size": {"height": 336, "width": 336}}}
CROPPED = {**PADDED, "resize": "squashed", "center_crop": True}


def test_the_same_sizes_are_the_same_whoever_set_them():
    named = {**QWEN, "family": "Qwen2-VL", "max_pixels": 12845056}
    assert check_images("It", QWEN, named, "resized_pixels", "Do that.") is None


def test_another_size_moves_boxes_in_pixels_alone():
    with pytest.raises(VisRLError) as raised:
        check_images("The model of runs/a", QWEN, SMALL, "resized_pixels_json", "Do that.")
    assert str(raised.value) == (
        "The model of runs/a was shown pictures differently: bounds.max_pixels 12845056 -> 802816. "
        "Boxes in resized_pixels_json would lie elsewhere. Do that."
    )
    for space in ("unit", "per_mille_json", "unit_padded_square"):
        note = check_images("It", QWEN, SMALL, space, "")
        assert note.endswith(f"max_pixels 12845056 -> 802816. Boxes in {space} mean the same either way.")
    assert check_images("It", QWEN, SMALL, "", "").endswith("12845056 -> 802816.")


def test_a_picture_without_its_padding_moves_boxes_of_the_padded_square():
    with pytest.raises(VisRLError, match=r"center_crop False -> True, resize padded -> squashed\. Boxes in"):
        check_images("It", PADDED, CROPPED, "unit_padded_square", "")
    assert "mean the same" in check_images("It", PADDED, CROPPED, "unit", "")
