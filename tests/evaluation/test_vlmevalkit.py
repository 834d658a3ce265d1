"""The two-pass model in VLMEvalKit: what its messages become, and a run.py that finds models as its own does."""

import json
import subprocess
import sys

import pytest

from tests.cards.test_model_usage import own_output
from tests.conftest import draw_photo
from tests.evaluation.test_eval import kind_of, model
from visrl_data.core.errors import UsageError, VisRLError
from visrl_data.engines.scripted import ScriptedEngine
from visrl_data.evaluation import vlmevalkit
from visrl_data.evaluation.two_pass import TwoPassModel
from visrl_data.pipeline import model_pair
from visrl_data.sources.spotlight import SpotlightSource
from visrl_data.spotlight import ACTOR

# What run.py and vlmeval have that the module meets: the table, the module of classes, the base class's generate.
FILES = {
    "vlmeval/__init__.py": "",
    "vlmeval/config.py": "supported_VLM = {}\n",
    "vlmeval/vlm/__init__.py": "",
    "vlmeval/vlm/base.py": (
        "class BaseModel:\n"
        "    def __init__(self):\n        self.dump_image_func = None\n"
        "    def generate(self, message, dataset=None):\n        return self.generate_inner(message, dataset)\n"
    ),
    "run.py": (
        "import json, sys\n"
        "import vlmeval.vlm\n"
        "from vlmeval.config import supported_VLM\n"
        "assert sys.argv[1] == '--config' and 'VisRL' in supported_VLM\n"
        "config = json.load(open(sys.argv[2]))\n"
        "(values,) = config['model'].values()\n"
        "model = getattr(vlmeval.vlm, values.pop('class'))(**values)\n"
        "print('REPLY', model.generate(config['message'], dataset='MME'))\n"
    ),
}


@pytest.fixture
def asked(monkeypatch, tmp_path):
    """asked(message, says): the reply, and the requests that the engine got."""
    picture = tmp_path / "photo.png"
    draw_photo(1).save(picture)

    def ask(message, says):
        seen = []

        def script(request, seed):
            seen.append(request)
            return says[kind_of(request)]

        monkeypatch.setattr(model_pair, "load_engine", lambda config, folder, logprobs: ScriptedEngine(script))
        two_pass = TwoPassModel(str(model(tmp_path / "model")), None, 1, {}, "VisRL:")
        parts = [{"type": kind, "value": value or str(picture)} for kind, value in message]
        return vlmevalkit.answer(two_pass, parts, "MME"), seen

    return ask


def words(request):
    return "\n".join(part.text for part in request.parts)


@pytest.mark.parametrize("ending", vlmevalkit._ENDINGS)
def test_the_ending_is_left_out_of_the_box_pass(asked, ending):
    message = [("image", ""), ("text", f"Question: Which?\nOptions:\nA. one\n{ending} \n")]
    reply, seen = asked(message, {"focus": "[0.100, 0.100, 0.500, 0.500]", "answer": " A "})
    focus, answer = seen
    assert reply == "A" and ending not in words(focus) and words(answer).endswith(ending)
    assert "Question: Which?\nOptions:\nA. one" in words(focus)
    assert len(focus.images) == 1 and len(answer.images) == 2


def test_an_unreadable_box_is_an_empty_reply(asked):
    assert asked([("image", ""), ("text", "Which?")], {"focus": "nothing"})[0] == ""


@pytest.mark.parametrize("pictures", [0, 2])
def test_other_numbers_of_pictures_are_refused(asked, pictures):
    with pytest.raises(VisRLError, match=f"MME: {pictures} pictures in a question"):
        asked([("image", "")] * pictures + [("text", "Which?")], {})


def test_a_wrong_path_and_a_wrong_option():
    with pytest.raises(UsageError, match=r"path of VLMEvalKit's run\.py"):
        vlmevalkit.main(["nowhere/run.py"])
    with pytest.raises(UsageError, match="VisRL: stepz=: expected pretrained"):
        TwoPassModel("spotlight", None, 1, {"stepz": 1}, "VisRL:")


def test_its_run_py_finds_the_model_and_gets_the_answers_of_visrl(tmp_path):
    for name, text in FILES.items():
        (tmp_path / "kit" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "kit" / name).write_text(text)
    scene = SpotlightSource("test", 1).read(0)
    picture = tmp_path / "photo.png"
    picture.write_bytes(scene.image)
    message = [{"type": "image", "value": str(picture)}, {"type": "text", "value": "What is written on the sign?"}]
    config = {"model": {"spotlight": {"class": "VisRL", "pretrained": "spotlight"}}, "message": message}
    (tmp_path / "eval.json").write_text(json.dumps(config))
    command = [sys.executable, "-m", "visrl_data.evaluation.vlmevalkit", str(tmp_path / "kit" / "run.py")]
    done = subprocess.run(
        [*command, "--config", str(tmp_path / "eval.json")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines()[-1] == f"REPLY {own_output(ACTOR, scene, picture)[1]}"
    config["message"] = message[1:]
    (tmp_path / "eval.json").write_text(json.dumps(config))
    done = subprocess.run(
        [*command, "--config", str(tmp_path / "eval.json")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1 and "visrl: MME: 0 pictures in a question" in done.stderr
    assert "Traceback" not in done.stderr
