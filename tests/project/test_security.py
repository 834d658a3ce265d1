"""What docs/security.md promises and no other test covers: no code from data, only safetensors, no way out of folders.

Images: test_images.py. URLs and archives: test_image_roots.py. `rebuild`: test_rebuild.py. Pages and cards:
test_page.py, test_cards.py, test_injection.py. Tokens: test_hub_access.py, test_openai_engine.py, test_talk.py.
"""

from __future__ import annotations

import ast
import dataclasses
import json
import pickle
import re
import shutil
from pathlib import Path

import pytest
import torch

import visrl_train.config
from tests.helpers.command import visrl
from tests.helpers.dataset_runs import SHIPPED, make_run, photos
from tests.helpers.release_folders import make_model
from visrl_data.core.config import GenConfig
from visrl_data.core.errors import VisRLError
from visrl_data.engines.loading import load_model
from visrl_data.evaluation.config import EvalConfig
from visrl_data.models.model_folder import find_model
from visrl_data.models.served import CRITIC_KEY, KEY

ROOT = Path(__file__).parents[2]
PACKAGES = ("visrl_data", "visrl_train", "cli", "cards", "studies")
MODULES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
FORBIDDEN_NAMES = {"eval", "exec", "compile", "__import__", "execfile"}
FORBIDDEN_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "joblib"}
FORBIDDEN_CALLS = {"torch.load", "yaml.load", "yaml.unsafe_load", "yaml.full_load", "os.system", "os.popen", "np.load"}
FORBIDDEN_ON = ("shell", "trust_remote_code", "allow_pickle")
FORBIDDEN_OFF = ("weights_only", "safe_serialization", "use_safetensors", "verify")


def faults(tree: ast.AST) -> list[str]:
    """What a module may not do, as it is written. torch.load may read tensors alone."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [name.name for name in node.names if name.name.split(".")[0] in FORBIDDEN_MODULES]
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in FORBIDDEN_MODULES:
            found.append(str(node.module))
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        told = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        tensors_alone = name == "torch.load" and told.get("weights_only") == "True"
        if name in FORBIDDEN_NAMES | FORBIDDEN_CALLS and not tensors_alone:
            found.append(name)
        found += [f"{option}=True" for option in FORBIDDEN_ON if told.get(option) == "True"]
        found += [f"{option}=False" for option in FORBIDDEN_OFF if told.get(option) == "False"]
    return found


def test_the_scan_finds_what_it_looks_for():
    bad = (
        "eval('1')\nimport pickle\nfrom dill import loads\ntorch.load(f)\nyaml.load(f)\nrun(c, shell=True)\n"
        "f(trust_remote_code=True)\nm.save_pretrained(d, safe_serialization=False)"
    )
    assert len(faults(ast.parse(bad))) == 8
    assert not faults(ast.parse("model.eval()\nre.compile(p)\nyaml.safe_load(f)\nf(trust_remote_code=config.trust)"))


def test_no_module_runs_code_from_data():
    assert len(MODULES) > 120
    wrong = {str(path.relative_to(ROOT)): faults(ast.parse(path.read_text("utf-8"))) for path in MODULES}
    assert not {path: found for path, found in wrong.items() if found}


def test_code_that_comes_with_a_model_is_off_by_default():
    stages = [kind for kind in vars(visrl_train.config).values() if dataclasses.is_dataclass(kind)]
    configs = [GenConfig, EvalConfig, *(kind for kind in stages if isinstance(kind, type))]
    told = [
        field.default for kind in configs for field in dataclasses.fields(kind) if field.name == "trust_remote_code"
    ]
    assert len(told) >= 3 and not any(told)
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                named = [argument.arg for argument in node.args.args]
                given = dict(zip(reversed(named), reversed(node.args.defaults), strict=False))
                if "trust_remote_code" in given:
                    assert ast.unparse(given["trust_remote_code"]) == "False", path


class Bomb:
    """Leaves a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self):
        return (open, (self.path, "w"))


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt"])
def test_weights_that_are_pickles_are_refused_unread(untrained, tmp_path, name):
    folder = tmp_path / "model"
    shutil.copytree(untrained, folder)
    for file in folder.glob("*.safetensors"):
        file.unlink()
    (folder / name).write_bytes(pickle.dumps(Bomb(tmp_path / "bang")))
    with pytest.raises(VisRLError, match=rf"no \*\.safetensors, only {name}; weights are read from safetensors alone"):
        find_model(str(folder))
    code, _, err = visrl("gen", "--model", folder, "--limit", 2, "-o", tmp_path / "run")
    assert code == 1 and "safetensors alone" in err and "Traceback" not in err
    (folder / "other.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{}      ")  # a decoy
    with pytest.raises(VisRLError, match="could not be loaded"):
        load_model(find_model(str(folder)), torch.float32, False)
    assert not (tmp_path / "bang").exists()


def test_an_adapter_that_is_a_pickle_is_refused_unread(tmp_path):
    folder = tmp_path / "adapter"
    shutil.copytree(find_model("spotlight").path, folder)
    (folder / "adapter_model.safetensors").rename(folder / "decoy.safetensors")
    (folder / "adapter_model.bin").write_bytes(pickle.dumps(Bomb(tmp_path / "bang")))
    with pytest.raises(VisRLError, match="no adapter_model.safetensors, only adapter_model.bin"):
        find_model(str(folder))
    assert not (tmp_path / "bang").exists()


def test_no_link_takes_a_file_of_this_machine_to_the_hub(tmp_path):
    secret = tmp_path / "id_rsa"
    secret.write_text("private")
    model = make_model(tmp_path / "model")
    (model / "notes.txt").symlink_to(secret)
    run = make_run(tmp_path / "run", photos(tmp_path / "photos", **SHIPPED)).path
    (run / "report.html").unlink()
    (run / "report.html").symlink_to(secret)
    for folder in (model, run):
        code, _, err = visrl("push", folder, "--hub-id", "me/x", "--dry-run")
        assert code == 1 and "is a link that leads out of its folder" in err and "Nothing was sent" in err


def test_a_link_inside_the_folder_is_no_matter(tmp_path, monkeypatch):
    from visrl_data.publishing.push import _refuse_links

    model = make_model(tmp_path / "model")
    (model / "vocab.txt").symlink_to(model / "config.json")
    _refuse_links(model)


def test_no_token_is_written_into_a_run(untrained, tmp_path, monkeypatch):
    tokens = {"HF_TOKEN": "hf_abcdefghijklmnop", KEY: "sk-abcdefghijklmnop", CRITIC_KEY: "sk-qrstuvwxyz"}
    for name, token in tokens.items():
        monkeypatch.setenv(name, token)
    code, out, err = visrl("gen", "--model", untrained, "--limit", 4, "-o", tmp_path / "run", "--verbose")
    assert code == 0
    written = b"".join(file.read_bytes() for file in (tmp_path / "run").rglob("*") if file.is_file())
    for token in tokens.values():
        assert token not in out + err and token.encode() not in written
    assert {"config.toml", "run.json", "times.jsonl", "report.html"} <= {f.name for f in (tmp_path / "run").iterdir()}


def test_ids_of_rows_name_no_files(tmp_path):
    """An id that is a path stays a value: everything is written under names of our own."""
    evil = "../../../escaped"
    source = photos(tmp_path / "a/b/photos", id=lambda i: f"{evil}{i}", source=evil, **SHIPPED)
    run = make_run(tmp_path / "a/b/run", source).path
    code, _, err = visrl("export", run, "--format", "llamafactory", "-o", tmp_path / "a/b/out")
    assert code == 0, err
    named = [path.name for path in tmp_path.rglob("*")]
    assert not [name for name in named if "escaped" in name]
    names = [path.name for path in (tmp_path / "a/b/out/images").iterdir()]
    assert names and all(re.fullmatch(r"[0-9a-f]{64}\.(png|jpg)", name) for name in names)
    assert evil in json.dumps(json.loads((tmp_path / "a/b/out/rl1.json").read_text()))
