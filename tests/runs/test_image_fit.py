"""A box lies on the same pixels, whoever shows the picture: visrl, a stock processor, or another trainer."""

import math
from io import BytesIO

import numpy as np
import pytest
from PIL import Image
from transformers import CLIPImageProcessorPil

from tests.helpers.tiny_families import TINY, stand_ins
from visrl_data.core.boxes import Box, make_frame, needs_resized_size
from visrl_data.core.errors import VisRLError
from visrl_data.core.image_settings import resized_size
from visrl_data.engines.image_processing import limit_pixels, picture_size, read_settings, show_whole
from visrl_data.models.families import family_of
from visrl_data.publishing.export_settings import llamafactory_size, swift_size
from visrl_data.runs.image_fit import ImageFit, image_bounds, pad_to_square, shown_size, stock_size
from visrl_data.runs.stored_images import png

CORNER = Box(0.0, 0.0, 0.2, 0.4)  # red; the rest is white: 8 % of the picture
QWEN = {"min_pixels": 3136, "max_pixels": 12845056, "multiple_of": 28}


def settings(**bounds):
    return {"family": "", "resize": "resized", "center_crop": False, "bounds": QWEN | bounds, "max_pixels": None}


@pytest.fixture(autouse=True)
def without_torchvision(monkeypatch):
    stand_ins(monkeypatch)


def cornered(size):
    picture = Image.new("RGB", size, "white")
    picture.paste("red", (0, 0, round(size[0] * CORNER.x2), round(size[1] * CORNER.y2)))
    return picture


def red_share(processor, picture):
    """The share of red in what the model is shown, tiles and thumbnails included, of what is red or white."""
    images = processor.image_processor
    pixels = images(images=[picture], return_tensors="pt")["pixel_values"].float().numpy()  # Llama 4 has bfloat16
    if pixels.ndim == 2:  # Qwen's patches: colors first
        pixels = pixels.reshape(len(pixels), 3, -1)
    elif pixels.ndim == 3:  # Gemma 4's: colors last
        pixels = np.moveaxis(pixels.reshape(*pixels.shape[:2], -1, 3), -1, 1)
    else:
        pixels = np.moveaxis(pixels, -3, 1)
    pixels = np.moveaxis(pixels, 1, 0).reshape(3, -1)
    red, green, _ = pixels * np.array(images.image_std)[:, None] + np.array(images.image_mean)[:, None]
    reds, whites = ((red > 0.8) & (green < 0.3)).sum(), ((red > 0.8) & (green > 0.8)).sum()
    return reds / (reds + whites)


def stock(name):
    """The processor as the Hub has it: LLaVA-1.5's cuts the ends off."""
    processor, _ = TINY[name]()
    if name == "llava":
        processor.image_processor = CLIPImageProcessorPil(
            size={"shortest_edge": 56}, crop_size={"height": 56, "width": 56}, do_center_crop=True
        )
    return processor


def shown_by_llamafactory(data, settings):
    """The picture as LLaMA-Factory hands it to the processor, with the settings of the export's YAML."""
    picture = Image.open(BytesIO(data))
    least, most = image_bounds(settings)
    for is_outside, bound in ((math.prod(picture.size) > most, most), (math.prod(picture.size) < least, least)):
        if is_outside:
            scale = math.sqrt(bound / math.prod(picture.size))
            picture = picture.resize((int(picture.width * scale), int(picture.height * scale)))
    return picture


@pytest.mark.parametrize("bound", [None, 56 * 56])
@pytest.mark.parametrize("name", TINY)
def test_the_red_corner_is_the_box_for_each_family(name, bound):
    """Molmo 2's crops overlap, and show the middle more often."""
    share = pytest.approx(0.08, abs=0.03 if name == "molmo2" else 0.02)
    family, processor = family_of(name), stock(name)
    show_whole(processor, family)
    if bound and family.resolution_control:
        limit_pixels(processor, family, bound, name)
    how, picture = read_settings(processor, family, bound), cornered((480, 240))
    shown = picture_size(processor, picture)
    frame = make_frame(family.box_space, picture.size, shown)
    text = frame.text(frame.to_cells(CORNER))
    row = {"box_space": family.box_space, "win_box_text": text, "win_box": frame.to_unit(frame.parse(text)[0]).xyxy}
    assert red_share(processor, picture) == share, "shown by visrl"
    for programs in ((stock_size,), (llamafactory_size,), (swift_size, stock_size)):
        fit = ImageFit(family.box_space, how["resize"] == "padded", how, programs)
        data = fit.whole(png(picture), row)
        seen = shown_by_llamafactory(data, how) if llamafactory_size in programs else Image.open(BytesIO(data))
        assert red_share(stock(name), seen) == share, "shown by a stock processor"
        if needs_resized_size(family.box_space):
            assert picture_size(stock(name), seen) == shown == shown_size(row)
        if not fit.pad_square and not needs_resized_size(family.box_space):
            assert data == png(picture), "the original"


def test_without_the_fit_llavas_corner_is_cut_off_and_qwens_box_lies_elsewhere():
    """What was measured on other programs: the corner is gone, the picture has another size."""
    assert red_share(stock("llava"), cornered((480, 240))) == 0.0
    processor = stock("qwen2_5_vl")
    limit_pixels(processor, family_of("qwen2_5_vl"), 56 * 56, "it")
    assert picture_size(processor, cornered((480, 240))) != picture_size(stock("qwen2_5_vl"), cornered((480, 240)))


@pytest.mark.parametrize("most", [784 * 4, 200_000, 802_816, 12_845_056])
def test_sizes_by_the_record_are_those_of_the_processor(most):
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

    dice = np.random.default_rng(0)
    for width, height in dice.integers(30, 3000, (300, 2)).tolist():
        expected = smart_resize(height, width, 28, 3136, most)[::-1]
        assert resized_size((width, height), QWEN | {"max_pixels": most}) == tuple(expected)


def test_llamafactorys_sizes_are_those_that_were_measured_on_it():
    assert llamafactory_size((1100, 900), settings(max_pixels=768 * 768)) == (840, 700), "its default"
    assert llamafactory_size((1100, 900), settings()) == resized_size((1100, 900), QWEN) == (1092, 896)
    assert resized_size((1100, 900), QWEN | {"max_pixels": 768 * 768}) == (840, 672), "visrl's with the same number"
    assert llamafactory_size((8, 4000), settings())[0] >= 28


def test_ms_swift_counts_in_tokens():
    """MAX_PIXELS of 602112 was measured on it; 800000 is 1020 tokens and a part of one, which is left out."""
    assert swift_size((1100, 900), settings(max_pixels=602_112)) == (840, 700)
    assert swift_size((1020 * 28, 28), settings(max_pixels=800_000)) == (1020 * 28, 28)
    sizes = [(width, 900) for width in range(400, 1400)]
    few, tokens = settings(max_pixels=800_000), settings(max_pixels=1020 * 784)
    assert [swift_size(size, few) for size in sizes] == [resized_size(size, tokens["bounds"]) for size in sizes]


def test_padding_is_llavas_own():
    from transformers import LlavaImageProcessorPil

    llava = LlavaImageProcessorPil(do_pad=True, do_center_crop=False, size={"height": 56, "width": 56})
    clip = CLIPImageProcessorPil(size={"shortest_edge": 56}, crop_size={"height": 56, "width": 56})
    for size in ((101, 40), (40, 101), (50, 50)):
        picture = cornered(size)
        padded = Image.open(BytesIO(pad_to_square(png(picture))))
        assert padded.size == (max(size), max(size))
        ours, theirs = (np.asarray(p(images=[i], return_tensors="np")["pixel_values"]) for p, i in
                        ((llava, picture), (clip, padded)))  # fmt: skip
        assert np.abs(ours - theirs).max() < 0.05


def test_a_jpeg_stays_one():
    buffer = BytesIO()
    cornered((120, 60)).save(buffer, "JPEG")
    data = pad_to_square(buffer.getvalue())
    with Image.open(BytesIO(data)) as picture:
        assert (picture.format, picture.size) == ("JPEG", (120, 120))


@pytest.mark.parametrize(
    ("text", "box"),
    [
        ("nothing", [0.1, 0.1, 0.5, 0.5]),
        ("[10, 10, 50, 50]", [0.1, 0.1, 0.0, 0.5]),
        ("[10, 10, 50, 50]", [0.1, 0.1, 1e-9, 0.5]),
    ],
)
def test_a_strangers_box_of_no_picture_is_a_message(text, box):
    with pytest.raises(VisRLError, match="which no picture has: its rows are not as visrl made them"):
        shown_size({"box_space": "resized_pixels", "win_box_text": text, "win_box": box})
