"""Every option of `visrl eval`, declared once; as config.py does for `visrl gen`.

Models, sources and scores may be named several times and are arguments of their own (evaluate.py).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from visrl_data.config import ENGINES, GenConfig, check_option, option

SCORES = ("exact", "normalised", "anls", "critic")
PROTOCOLS = ("visrl", "visual-cot")


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalConfig:
    """How questions are asked and how replies are scored. Raises UsageError when a value is out of its range."""

    split: str = option("test", "Split of the sources.", panel="Questions")
    limit: int | None = option(None, "First N rows of each source; default: all, and 200 of spotlight.", low=1)
    images_root: str | dict[str, str] | None = option(
        None,
        "Folder, .zip or .tar that image paths are relative to; NAME=DIR for one set. Repeatable. Default: the file's.",
    )
    allow_urls: str | None = option(
        None, "Fetch images at URLs of these hosts: a.org,*.b.org, or any. Default: none are fetched."
    )
    columns: dict[str, str] = option({}, "Column names of the sources: question=q,answers=a,image=img,id=key,boxes=b.")
    gold_space: str = option("unit", "Space of the sources' gold boxes.", choices=("unit", "pixels"))

    protocol: str = option(
        "visrl",
        "How the two steps are asked: as in training, or as the Visual-CoT benchmark asks (a second turn, its crop).",
        choices=PROTOCOLS,
        panel="Asking",
    )
    baseline: bool = option(True, "Also ask the original model in one step, without a box.")
    box_space: str | None = option(
        None, "Space in which the models write boxes; default: as their folders record, else unit."
    )
    crop_min_side: float | None = option(
        None, "Smallest crop side, a fraction of the longer image side.", low=0.0, high=1.0
    )
    crop_max_aspect: float | None = option(None, "Longest crop side over its shortest.", low=1.0)
    max_new_tokens: int = option(64, "Longest reply, in tokens.", low=1)
    prompts: str | None = option(None, "TOML file with prompt templates of your own.")

    critic: str | None = option(
        None, "Judge for --score critic; default: the ORIGINAL model of the first --model.", panel="Scoring"
    )
    gold_rule: str = option(
        "any",
        "Several gold boxes: the IoU with the nearest, or with the box around all.",
        choices=("any", "union"),
    )
    resamples: int = option(10_000, "Resamples of the bootstrap.", low=1)
    seed: int = option(0, "Seed of the bootstrap and of the page's sample.")

    engine: str = option(
        "transformers", "What runs the models: this machine, or openai: a server.", choices=ENGINES, panel="Running"
    )
    base_url: str | None = option(None, "Address of the server, like http://host:8000/v1; default: OPENAI_BASE_URL.")
    critic_engine: str | None = option(None, "What runs the critic; default: what runs the actor.", choices=ENGINES)
    critic_base_url: str | None = option(None, "Address of the critic's server; default: the actor's.")
    dialect: str = option(
        "standard",
        "How servers are asked: by OpenAI's fields (and top_k, above 0), or as `transformers serve` wants.",
        choices=("standard", "transformers"),
    )
    in_flight: int = option(16, "Requests that a server is sent at a time.", low=1)
    device: str = option("auto", "cpu, cuda, cuda:1, mps; auto takes the best there is.")
    dtype: str = option("auto", "float32, bfloat16, float16; auto: float32 on a CPU, else bfloat16.")
    batch_size: int = option(32, "Sequences in a batch; halved for a while when memory runs out.", low=1)
    max_pixels: int | None = option(None, "Most pixels of a picture, for models that take any size.", low=1)
    chunk_size: int = option(32, "Questions in a unit of work, which is also a point of resumption.", low=1)
    trust_remote_code: bool = option(False, "Run code that comes with a model. Only for models that you trust.")

    def __post_init__(self) -> None:
        for spec in dataclasses.fields(self):
            check_option(spec, getattr(self, spec.name))

    def gen_config(self, source: str) -> GenConfig:
        """The same options as generation knows them, for one source: greedy, one box a question."""
        shared = {spec.name for spec in dataclasses.fields(GenConfig)} & {s.name for s in dataclasses.fields(self)}
        values = {name: getattr(self, name) for name in shared}
        return GenConfig(**values, source=source, attempts=1, temperature=0.0, diversity="off")
