"""The layout of the paper's own code, checked against what its reader does (src/visrl_stage2/data/aligner.py there)."""

import ast
import json

import pytest
from PIL import Image

from tests.conftest import scripted_reply
from tests.helpers.command import visrl
from tests.helpers.dataset_runs import make_run, photos
from visrl_data.publishing.dataset import build_dataset
from visrl_data.publishing.export import export
from visrl_data.runs.dataset_folder import dataset_pairs, open_dataset
from visrl_data.runs.run_folder import Run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("paper")
    source = photos(folder / "photos", rows=40, question=lambda i: f"Is <image> thing {i}?", license="mit")
    return make_run(folder / "run", source).path


def read_stage(data, folder, name):
    """What the fork makes of a dataset's rows: for each, by step, (prompt, images, chosen, rejected).

    Its trainer is started with dataset_dir FOLDER and image_dir `data`, the folder above.
    """
    info = json.loads((folder / "dataset_info.json").read_text())[f"visrl-{name}"]
    columns = info["columns"]
    assert info["ranking"] is True and info["formatting"] == "sharegpt"
    stages = []
    for row in json.loads((folder / info["file_name"]).read_text()):
        (turn,) = row[columns["messages"]]
        assert turn["from"] == "human"
        sides = {name: row[columns[name]] for name in columns if name not in ("messages", "images")}
        assert all(side["from"] == "gpt" for side in sides.values())
        (path,) = row[columns["images"]]
        image = Image.open(data / path)
        prompt, steps = turn["value"], {}
        if "chosen_step" not in columns:  # stage 1
            steps["focus"] = (prompt, [image], sides["chosen"]["value"], sides["rejected"]["value"])
        else:
            box = ast.literal_eval(sides["chosen_step"]["value"])
            crop = image.crop([int(value * side) for value, side in zip(box, image.size * 2, strict=True)])
            steps["focus"] = (prompt, [image], sides["chosen_step"]["value"], sides["rejected_step"]["value"])
            both = (sides["chosen"]["value"], sides["rejected"]["value"])
            steps["response"] = (f"{prompt}\n<image>", [image, crop], *both)
        for text, images, chosen, rejected in steps.values():
            assert (text + chosen + rejected).count("<image>") == len(images), "checked by its mm_plugin"
            assert all(min(picture.size) > 0 for picture in images)
        stages.append(steps)
    return stages


def pairs_of(run, folder):
    dataset = build_dataset([run], folder, ship_images=True)
    return dataset_pairs(open_dataset(dataset.folder)).pairs.to_pylist()


def test_the_layout_is_what_the_papers_code_reads(run, tmp_path):
    folder = tmp_path / "data" / "cars"
    result = export(run, "visrl", folder)
    pairs = pairs_of(run, tmp_path / "set")
    first = [row for name in ("rl1", "rl1-validation") for row in read_stage(tmp_path / "data", folder, name)]
    second = [row for name in ("rl2", "rl2-validation") for row in read_stage(tmp_path / "data", folder, name)]
    assert len(first) == len(pairs) == result.rows["rl1"] + result.rows["rl1-validation"] > 0
    assert len(second) == sum(not pair["same_response"] for pair in pairs)
    focus = {(row["focus"][2], row["focus"][3]) for row in first}
    assert focus == {tuple(str_box(pair[f"{side}_box"]) for side in ("win", "lose")) for pair in pairs}
    responses = {row["response"][2:] for row in second}
    assert responses == {(pair["win_response"], pair["lose_response"]) for pair in pairs if not pair["same_response"]}


def test_a_box_that_leaves_its_reader_no_pixel_has_no_second_stage(tmp_path):
    """0.005 of 120 pixels is less than one: cv2 would fail on the empty crop, and end the training."""
    source = photos(tmp_path / "photos", rows=20, license="mit")

    def script(request, seed):
        reply = scripted_reply(request, seed)
        return reply.replace(reply.split(", ")[2], f"{float(reply[1:6]) + 0.005:.3f}") if reply[0] == "[" else reply

    run = make_run(tmp_path / "run", source, script).path
    result = export(run, "visrl", tmp_path / "data" / "cars")
    second = [row for name in ("rl2", "rl2-validation") for row in read_rows(tmp_path / "data" / "cars", name)]
    pairs = sum(result.rows[name] for name in result.rows if name.startswith("rl1"))
    same = sum(pair["same_response"] for pair in Run(run).pairs().to_pylist())
    assert len(second) < pairs == len(second) + same + result.no_pixel + result.empty, "each pair is counted"
    code, out, err = visrl("export", run, "--format", "visrl", "-o", tmp_path / "data" / "again")
    assert code == 0 and f"{result.no_pixel} pairs have no row in rl2" in out
    assert "need an actor with no crop rule on record" in " ".join(out.split()), "Spotlight has one"
    assert result.grown == sum(result.rows[name] for name in result.rows if name.startswith("rl1"))
    read_stage(tmp_path / "data", tmp_path / "data" / "cars", "rl2")


def str_box(box):
    return "[" + ", ".join(f"{value:.3f}" for value in box) + "]"


def test_boxes_are_fractions_of_the_image_in_every_space(tmp_path):
    """The fork evaluates the text and multiplies it by the picture's sides."""
    source = photos(tmp_path / "photos", rows=20, license="mit")

    def script(request, seed):
        reply = scripted_reply(request, seed)
        if not reply.startswith("["):
            return reply
        return json.dumps([round(value * 1000) for value in json.loads(reply)])

    run = make_run(tmp_path / "run", source, script, box_space="per_mille").path
    export(run, "visrl", tmp_path / "data" / "cars")
    pairs = pairs_of(run, tmp_path / "set")
    assert all("." not in pair["win_box_text"] for pair in pairs)
    rows = [row for name in ("rl1", "rl1-validation") for row in read_rows(tmp_path / "data" / "cars", name)]
    assert {row["chosen_step"]["value"] for row in rows} == {str_box(pair["win_box"]) for pair in pairs}


def read_rows(folder, name):
    file = folder / f"{name}.json"
    return json.loads(file.read_text()) if file.is_file() else []
