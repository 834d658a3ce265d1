"""The code on a model's card, copied as it stands, in an environment without visrl: its box and answer are visrl's."""

import ast
import json
import re
import shutil
from io import BytesIO

import pytest
from PIL import Image

from tests.cards.test_model_usage import own_output
from visrl_data.publishing import model_release
from visrl_data.sources.spotlight import SpotlightSource
from visrl_data.spotlight import ACTOR, BASE
from visrl_train import card
from visrl_train.config import Rl1Config
from visrl_train.merge import merge

pytestmark = [pytest.mark.peers, pytest.mark.timeout(3600)]


@pytest.fixture
def published(tmp_path):
    """What lies on the Hub after a push: org/base, an adapter on it, me/adapter, and its merged form, me/merged."""
    trained, base = tmp_path / "trained", {"id": "org/base@main", "digest": "0" * 64}
    shutil.copytree(ACTOR, trained)
    record = json.loads((ACTOR / "visrl.json").read_text())
    of_training = {"stage": "rl1", "steps": 2, "trained_from": base, "data": {"name": "me/cars"}, "versions": {}}
    record |= {"base": base, "origin_base": base, **of_training}
    (trained / "visrl.json").write_text(json.dumps(record))
    (trained / "README.md").write_text(card.render(record, Rl1Config(), trained, tmp_path / "no-metrics"))
    merge(str(ACTOR), tmp_path / "merged")
    hub = tmp_path / "hub"
    for name, folder in {"org/base": BASE, "me/adapter": trained, "me/merged": tmp_path / "merged"}.items():
        (hub / name).parent.mkdir(parents=True, exist_ok=True)
        model_release.copy(folder, hub / name)
        model_release.stamp(folder, hub / name, f"{name}@v1.0")
    return hub


@pytest.mark.parametrize("model", ["me/adapter", "me/merged"])
def test_the_cards_code_gives_the_box_and_the_answer_of_visrl(environment, published, model):
    program = environment("plain")
    assert "visrl" not in program.run("python", "-m", "pip", "list", cwd=published)
    (code,) = re.findall(r"```python\n(.*?)\n```", (published / model / "README.md").read_text(), re.DOTALL)
    assert f"MODEL, REVISION = '{model}', 'v1.0'" in code
    (published / "use.py").write_text(code)
    scene = SpotlightSource("test", 1).read(0)
    Image.open(BytesIO(scene.image)).save(published / "photo.jpg", quality=95)
    printed = program.run("python", "use.py", cwd=published)
    box, answer = (line.partition(": ")[2] for line in printed.splitlines()[-2:])
    expected = own_output(ACTOR if model == "me/adapter" else published / model, scene, published / "photo.jpg")
    assert (ast.literal_eval(box), answer) == expected
