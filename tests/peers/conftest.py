"""What the tests with other programs share: their environments, tiny models of real families, and a run with pairs."""

from __future__ import annotations

import functools
import json
import os
from pathlib import Path

import pytest
from PIL import Image

from tests.helpers import tiny_families
from tests.helpers.dataset_runs import SHIPPED, make_run, photos
from tests.helpers.processor_engine import ProcessorEngine
from tests.peers.environments import ROOT, Environment, make_environment
from visrl_data.core.config import GenConfig
from visrl_data.engines.image_processing import limit_pixels, picture_size
from visrl_data.engines.protocol import Role
from visrl_data.executors import generation
from visrl_data.models.families import family_of

# Above each program's own requirements: torch and, but for "plain", torchvision.
REQUIREMENTS = {
    "llamafactory": ["llamafactory==0.9.5"],
    "swift": ["ms-swift==4.6.0", "qwen_vl_utils"],
    "trl-oldest": ["trl==0.29.1", "peft", "pillow"],
    "trl-newest": ["trl==1.16.0", "peft", "pillow"],
    "lmms": [f"{ROOT}[lmms]", "pytest", "pytest-timeout", "hypothesis", "scipy"],
    "plain": ["transformers>=5.0,<6", "peft", "pillow"],
}


@pytest.fixture(scope="session")
def environment(tmp_path_factory):
    """environment(name): its virtual environment, in $PEERS_VENVS or in a temporary folder."""
    cached = os.environ.get("PEERS_VENVS")
    root = Path(cached) if cached else tmp_path_factory.mktemp("venvs")

    def make(name: str) -> Environment:
        return make_environment(root / name, REQUIREMENTS[name], torchvision=name != "plain")

    return make


@pytest.fixture(scope="session")
def peers_run(tmp_path_factory) -> Path:
    """A finished run with scripted replies, on pictures of several sizes that may be shipped."""
    folder = tmp_path_factory.mktemp("peers-run")
    return make_run(folder / "run", photos(folder / "photos", rows=40, **SHIPPED)).path


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory):
    """tiny_model(family, max_pixels=...): a folder with random weights, with the settings of a video processor too."""
    root = tmp_path_factory.mktemp("tiny")

    def make(name: str, max_pixels: int | None = None) -> Path:
        folder = root / f"{name}-{max_pixels}"
        if folder.is_dir():
            return folder
        # LLaVA's own name of a picture, which LLaMA-Factory and ms-swift write into their prompts.
        own = {"llava": functools.partial(tiny_families.llava, image_token="<image>")}
        with pytest.MonkeyPatch.context() as monkeypatch:
            tiny_families.stand_ins(monkeypatch)
            tiny_families.save(own.get(name, tiny_families.TINY[name]), folder)
        path = folder / "processor_config.json"
        settings = json.loads(path.read_text())
        if max_pixels is not None:
            settings["image_processor"]["size"] = {"shortest_edge": 56 * 56, "longest_edge": max_pixels}
            for key, value in (("min_pixels", 56 * 56), ("max_pixels", max_pixels)):
                if key in settings["image_processor"]:
                    settings["image_processor"][key] = value
        if name.startswith("qwen"):
            settings["video_processor"] = {"video_processor_type": "Qwen2VLVideoProcessor"}
        path.write_text(json.dumps(settings, indent=2))
        return folder

    return make


@pytest.fixture
def pixel_run(tmp_path):
    """pixel_run(max_pixels): a run with boxes in pixels of what Qwen2-VL's processor shows, and that size."""

    def make(bound: int | None) -> tuple[Path, list[int]]:
        family = family_of("qwen2_vl")
        with pytest.MonkeyPatch.context() as patch:
            tiny_families.stand_ins(patch)
            processor, _ = tiny_families.qwen2_vl()
        if bound:
            limit_pixels(processor, family, bound, "it")
        engine = ProcessorEngine(processor, family, bound)
        source = photos(tmp_path / "photos", 24, **SHIPPED)
        config = GenConfig(source=str(source), box_space="resized_pixels", box_win=0.5, box_lose=0.4)
        run = generation.generate(config, tmp_path / "run", roles=(Role(engine, True), Role(engine, False)))
        return run.path, list(picture_size(processor, Image.new("RGB", (120, 90))))

    return make
