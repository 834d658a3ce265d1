"""Code that comes with a model: refused at once, in whichever file it is named, and never asked about."""

import builtins
import json
import shutil

import pytest
import torch

from visrl_data.core.errors import VisRLError
from visrl_data.engines.loading import load_model, load_processor
from visrl_data.engines.quantization import empty_model
from visrl_data.engines.served_processor import load_served_processor
from visrl_data.models.model_folder import find_model
from visrl_data.models.served import find_served_model

CODE = (
    "from pathlib import Path\nPath(__file__).with_name('ran').touch()\nfrom transformers import LlavaProcessor as P\n"
)
FOLDERS = {
    "config": ("config.json", {"model_type": "other", "auto_map": {"AutoConfig": "code.C"}}),
    "part of the config": ("config.json", {"vision_config": {"model_type": "o", "auto_map": {"AutoConfig": "code.C"}}}),
    "processor": ("processor_config.json", {"processor_class": "Other", "auto_map": {"AutoProcessor": "code.P"}}),
    "image processor": (
        "preprocessor_config.json",
        {"image_processor_type": "Other", "auto_map": {"AutoImageProcessor": "code.P"}},
    ),
    "tokenizer": (
        "tokenizer_config.json",
        {"tokenizer_class": "Other", "auto_map": {"AutoTokenizer": ["code.P", None]}},
    ),
    "kernel": ("config.json", {"attn_implementation": "somebody/kernel"}),
    "odd type": ("video_preprocessor_config.json", {"model_type": ["x"], "auto_map": {"AutoVideoProcessor": "code.V"}}),
    "odd map": ("video_preprocessor_config.json", {"video_processor_type": "Other", "auto_map": 3}),
}


def load_served(folder) -> None:
    *_, problem = load_served_processor(find_served_model(str(folder), "http://127.0.0.1:9/v1"), False)
    raise VisRLError(problem)


LOADERS = {
    "processor": lambda folder: load_processor(find_model(folder), None, False),
    "model": lambda folder: load_model(find_model(folder), torch.float32, False),
    "shape": lambda folder: empty_model(find_model(folder)),
    "processor of a served model": load_served,
}


@pytest.fixture
def with_code(untrained, tmp_path):
    """Return a function: a model folder of which one file names code, and that code."""

    def make(file, about):
        folder = tmp_path / "model"
        shutil.copytree(untrained, folder)
        (folder / "code.py").write_text(CODE)
        content = json.loads((folder / file).read_text()) if (folder / file).is_file() else {}
        (folder / file).write_text(json.dumps(content | about))
        return folder

    return make


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize("kind", FOLDERS)
def test_code_is_refused_and_not_asked_about(kind, loader, with_code, monkeypatch):
    asked = []
    monkeypatch.setattr(builtins, "input", lambda text="": asked.append(text) or "y")
    file, about = FOLDERS[kind]
    folder = with_code(file, about)
    with pytest.raises(VisRLError, match=rf"without code that is not part of transformers: {file} names"):
        LOADERS[loader](str(folder))
    assert not asked and not (folder / "ran").exists()


def test_code_that_transformers_does_not_need_is_no_obstacle(with_code):
    """Many models of the Hub name code from before transformers had their family."""
    folder = with_code("config.json", {"auto_map": {"AutoModelForImageTextToText": "code.M", "AutoConfig": "code.C"}})
    load_model(find_model(str(folder)), torch.float32, False)
    assert not (folder / "ran").exists()


def test_a_loader_that_is_not_told_does_not_ask(with_code, monkeypatch):
    """transformers has loaders that do not pass on that code is not trusted; these must not ask either."""
    from transformers import AutoProcessor

    monkeypatch.setattr(builtins, "input", lambda text="": "y")
    file, about = FOLDERS["processor"]
    folder = with_code(file, about)
    with pytest.raises(VisRLError):
        load_processor(find_model(str(folder)), None, False)
    with pytest.raises(ValueError):
        AutoProcessor.from_pretrained(folder)
    assert not (folder / "ran").exists()
