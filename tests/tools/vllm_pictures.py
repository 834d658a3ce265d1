"""Does vLLM show each family the pictures of the transformers engine? On tiny random models, where vLLM is installed.

    python -m tests.tools.vllm_pictures [MODEL_TYPE ...]

prints a table; docs/engines.md shows it. For prompts of one and of two pictures (an image and a crop; wide, tall and
tiny ones) it compares what vLLM feeds its model with what the transformers engine feeds its own, token ids and
normalized pixels, and the greedy replies of both. Once as the folder says, and once with --max-pixels for families
that have it. Each model runs in a process of its own; minutes in all.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tests.conftest import draw_photo
from visrl_data.core.errors import VisRLError
from visrl_data.core.prompts import PromptPart
from visrl_data.engines.messages import prompt_text
from visrl_data.engines.protocol import Reply, Request, Sampling
from visrl_data.engines.vllm_pictures import ModelInput, own_input, pixel_gap, vllm_input
from visrl_data.models.families import family_of
from visrl_data.models.model_folder import ModelFolder, find_model

SIZES = ((640, 480), (300, 900), (900, 200), (57, 43), (20, 16))
VARIANTS = 3  # of pictures of each size
OPTIONS = {"kv_cache_memory_bytes": 2**28, "max_model_len": 1024}
# Of models with linear attention: vLLM's CPU build runs it in this dtype, and without shared prefixes.
LINEAR = ("minicpmv4_6",)
# In pixels: less than the tiny models' own bounds, and about one tile and a half.
MAX_PIXELS = {"llava_next": 6272, "idefics3": 4000, "smolvlm": 4000, "internvl": 6272, "qwen2_vl": 4000,
              "qwen2_5_vl": 4000, "qwen3_vl": 5000}  # fmt: skip
# Model types for which the two are equal; the others are refused, for a reason with these words.
EQUAL = ("spotlight", "llava", "llava_next", "qwen2_vl", "qwen2_5_vl", "qwen3_vl", "gemma3", "idefics3", "smolvlm",
         "internvl", "minicpmv4_6")  # fmt: skip
REFUSED = {
    "llava_onevision": "other tokens",
    "paligemma": "nothing",
    "mllama": "could not load",
}


@dataclass(frozen=True, slots=True)
class Comparison:
    """What was found for one model. refusal: why the engine refused it; then nothing else counts.

    prompts: how many, and how many of them with the same token ids. gap: largest difference of a normalized pixel.
    replies: how many greedy ones are the same.
    """

    model_type: str
    max_pixels: int | None
    refusal: str = ""
    prompts: int = 0
    same_tokens: int = 0
    gap: float = 0.0
    same_replies: int = 0


def requests() -> list[Request]:
    """Return greedy requests with one and with two pictures."""
    ask, sampling = PromptPart("text", "What is this?"), Sampling(max_new_tokens=16)
    made = []
    for number in range(VARIANTS):
        for size in SIZES:
            image, crop = draw_photo(number, size), draw_photo(number + 50, (70, 90))
            parts = (PromptPart("image"), ask)
            made.append(Request(parts, (image,), (0,), sampling))
            made.append(Request((*parts, PromptPart("crop"), ask), (image, crop), (0,), sampling))
    return made


def run_case(model_type: str, max_pixels: int | None) -> Comparison:
    """Compare the two engines in this process: transformers first, since vLLM changes its classes."""
    _stand_in_for_num2words()
    with tempfile.TemporaryDirectory() as work:
        model = find_model(str(_folder(model_type, Path(work))))
        return _compare(model_type, model, max_pixels)


def _folder(model_type: str, work: Path) -> Path:
    from tests.helpers.tiny_families import save_for_vllm

    return find_model("spotlight-base").path if model_type == "spotlight" else save_for_vllm(model_type, work)


def _stand_in_for_num2words() -> None:
    """SmolVLM's processor asks for it, to write the lengths of videos."""
    from transformers.models.smolvlm import processing_smolvlm

    processing_smolvlm.num2words = processing_smolvlm.num2words or str


def _compare(model_type: str, model: ModelFolder, max_pixels: int | None) -> Comparison:
    from visrl_data.engines.transformers import TransformersEngine
    from visrl_data.engines.vllm import VLLMEngine

    prompts = requests()
    dtype = "bfloat16" if model_type in LINEAR else "float32"
    own = TransformersEngine(model, device="cpu", dtype=dtype, max_pixels=max_pixels)
    replies = [own.generate([request])[0][0] for request in prompts]
    texts = [prompt_text(request, own.processor, own._special) for request in prompts]
    inputs = [own_input(own.processor, *case) for case in zip(texts, [r.images for r in prompts], strict=True)]
    try:
        options = {**OPTIONS, "enable_prefix_caching": model_type not in LINEAR}
        engine: Any = VLLMEngine(model, dtype, max_pixels, options=options)
    except VisRLError as error:
        return Comparison(model_type, max_pixels, str(error))
    others = [
        vllm_input(engine._llm, engine.processor, text, request.images)
        for text, request in zip(texts, prompts, strict=True)
    ]
    pairs = list(zip(inputs, others, strict=True))
    same: list[tuple[Reply, Reply]] = [
        (first, second[0]) for first, second in zip(replies, engine.generate(prompts), strict=True)
    ]
    return Comparison(
        model_type, max_pixels, "", len(prompts),
        sum(first.ids == second.ids for first, second in pairs),
        max(_gap(*pair) for pair in pairs),
        sum(first.text == second.text for first, second in same),
    )  # fmt: skip


def _gap(own: ModelInput, other: ModelInput) -> float:
    return pixel_gap(own, other) if len(own.pixels) == len(other.pixels) else math.inf


def run_apart(model_type: str, max_pixels: int | None) -> Comparison:
    """Compare in a process of its own: one vLLM fits in a process."""
    line = [sys.executable, "-m", "tests.tools.vllm_pictures", "--case", model_type, str(max_pixels or 0)]
    done = subprocess.run(line, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{model_type}: {done.stderr[-2000:]}")
    return Comparison(**json.loads(done.stdout.splitlines()[-1]))


def cases(model_types: list[str]) -> list[tuple[str, int | None]]:
    """Return (model type, max_pixels) of all comparisons."""
    plain = [(name, None) for name in model_types]
    return sorted([*plain, *((name, MAX_PIXELS[name]) for name in model_types if name in MAX_PIXELS)], key=str)


def table(rows: list[Comparison]) -> str:
    """Return the rows as a table in Markdown."""
    names = ("family", "`--max-pixels`", "same token ids", "pixels differ by at most", "same greedy replies")
    lines = [names, ["---"] * len(names)]
    for row in rows:
        name = "Spotlight" if row.model_type == "spotlight" else family_of(row.model_type).name
        bound = "yes" if row.max_pixels else "no"
        shares = [f"{count} of {row.prompts}" for count in (row.same_tokens, row.same_replies)]
        values = ["refused", "", ""] if row.refusal else [shares[0], f"{row.gap:.1g}", shares[1]]
        lines.append([name, bound, *values])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main() -> None:
    if sys.argv[1:2] == ["--case"]:
        found = run_case(sys.argv[2], int(sys.argv[3]) or None)
        print(json.dumps(asdict(found)))
        return
    rows = []
    for case in cases(sys.argv[1:] or [*EQUAL, *REFUSED]):
        rows.append(run_apart(*case))
        print(rows[-1], file=sys.stderr, flush=True)
    print(table(rows))


if __name__ == "__main__":
    main()
