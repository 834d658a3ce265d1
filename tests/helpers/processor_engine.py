"""A scripted model that is shown pictures by a real processor, and writes its boxes in pixels of what it is shown."""

from __future__ import annotations

from typing import Any

from PIL import Image

from tests.conftest import scripted_reply
from visrl_data.core.seeds import generator
from visrl_data.engines.image_processing import picture_size, read_settings
from visrl_data.engines.protocol import Request
from visrl_data.engines.scripted import ScriptedEngine
from visrl_data.models.families import Family


class ProcessorEngine(ScriptedEngine):
    """Boxes by dice, in pixels and of half the shown picture's sides where the processor resizes to a size of its own;
    all other replies as scripted_reply has them.
    """

    def __init__(self, processor: Any, family: Family, max_pixels: int | None = None) -> None:
        super().__init__(self._reply_to)
        self.processor = processor
        self.image_settings = read_settings(processor, family, max_pixels)

    def resized_size(self, image: Image.Image) -> tuple[int, int]:
        return picture_size(self.processor, image)

    def _reply_to(self, request: Request, seed: int) -> str:
        text = "\n".join(part.text for part in request.parts)
        if self.image_settings["resize"] != "resized":
            return scripted_reply(request, seed)
        if [part.kind for part in request.parts] != ["image", "text"] or "Standard answer" in text:
            return scripted_reply(request, seed)
        width, height = self.resized_size(request.images[0])
        dice = generator(seed)
        x, y = dice.integers(0, width // 2), dice.integers(0, height // 2)
        return f"[{x}, {y}, {x + width // 2}, {y + height // 2}]"
