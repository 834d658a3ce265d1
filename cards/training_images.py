"""Say on a dataset's card how its training rows must be shown, and what was done for programs that can't be told."""

from __future__ import annotations

from visrl_data.core.boxes import needs_resized_size
from visrl_data.core.image_settings import describe_images
from visrl_data.core.text import Markdown, markdown
from visrl_data.runs.image_fit import image_bounds, needs_padding, swift_environment
from visrl_data.runs.manifest import DatasetManifest


def describe_training_images(manifest: DatasetManifest) -> list[Markdown]:
    """Return lines of Markdown about the pictures of rl1 and rl2."""
    run = manifest["runs"][0]
    settings = run["run"].get("image_settings")
    shown = describe_images(settings) if settings else "not on record (an earlier version made the pairs)"
    lines = [f"How the actor was shown pictures: {markdown(shown)}."]
    if needs_resized_size(run["run"]["box_space"]):
        lines.append(_IN_PIXELS)
    if manifest.get("pad_square"):
        lines.append(_PADDED)
    elif needs_padding(run):
        lines.append(_CUT_OFF)
    if settings and (environment := swift_environment(settings)):
        least, most = image_bounds(settings)
        lines.append(_BOUNDS.format(least=least, most=most, environment=" ".join(environment)))
    return [Markdown(line) for line in (*lines, _TRL)]


_IN_PIXELS = """\
**Boxes are in pixels of the picture at that size.** A picture that stock processors would show at another size is
  stored here at that size, so leave their bounds as they are; a smaller bound moves every box."""
_CUT_OFF = """\
**Stock processors of LLaVA-1.5 cut the ends of a picture off**, where boxes may lie: pad the pictures to squares, or
  publish the runs with `--pad-square`."""
_BOUNDS = """\
The same bounds elsewhere: LLaMA-Factory `image_max_pixels: {most}` and `image_min_pixels: {least}` (its default shrinks
  pictures to 768 x 768 pixels), ms-swift `{environment}`. `visrl export` writes both, ready to train."""
_TRL = """\
TRL 0.29 or later. 0.24 and 0.26 train on these rows with no pixels in the batch, and say nothing; check that a batch
  has `pixel_values`."""
_PADDED = "The pictures are padded to squares, as the actor was shown them; stock processors keep squares whole."
