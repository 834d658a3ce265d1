"""`visrl inspect A B`: what differs between two runs or published versions, and what became of common questions."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.command import visrl
from tests.helpers.dataset_runs import SHIPPED, make_run, photos
from tests.helpers.loopback_hub import LoopbackHub
from visrl_data.pipeline import finalize
from visrl_data.publishing.dataset import Stamp, build_dataset
from visrl_data.report.comparison import compare
from visrl_data.report.measures import share_difference

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Runs of 24 questions, 16 of them labelled: one, another seed of it, one with half of the questions, one of
    other pictures without labels; and the first as a dataset."""
    here = tmp_path_factory.mktemp("compared")
    source = photos(here / "photos", **SHIPPED)
    make_run(here / "one", source, box_win=0.6)
    make_run(here / "seed", source, box_win=0.6, seed=1)
    make_run(here / "half", source, limit=12, box_win=0.6)
    make_run(here / "other", photos(here / "more", question="And this?", boxes=[]), box_win=0.6)
    build_dataset([here / "one"], here / "set", Stamp("v1.0", "user/set"))
    build_dataset([here / "one", here / "seed"], here / "both", Stamp("v1.1", "user/set"))
    return here


def compared(folder, a, b):
    return compare(folder / a, folder / b)


def pairs_of(found):
    counts = found["questions"]["pairs"]
    assert sum(counts.values()) == found["questions"]["common"], "every common question is counted once"
    return counts


@pytest.mark.parametrize("b", ["one", "set"])
def test_a_run_beside_itself_and_beside_its_dataset(folder, b):
    found = compared(folder, "one", b)
    assert found["conditions"] == {} and len(found["same_runs"]) == 1
    assert pairs_of(found)["same"] == found["a"]["pairs"] > 0
    assert all(sides["a"] == sides["b"] for sides in found["figures"].values())
    assert found["audit"]["difference"]["WP-LN"]["points"] == 0
    assert found["audit"]["difference"]["WP-LN"]["low"] < 0 < found["audit"]["difference"]["WP-LN"]["high"]
    code, out, _ = visrl("inspect", folder / "one", folder / b)
    assert code == 0 and "the same run" in out and "Same conditions" in out


def test_another_seed_gives_other_pairs_of_the_same_questions(folder):
    found = compared(folder, "one", "seed")
    assert found["conditions"] == {"options": {"seed": {"a": 0, "b": 1}}}
    counts = pairs_of(found)
    assert found["questions"]["common"] == 24
    assert counts["same"] + counts["differ"] + counts["only_in_a"] == found["a"]["pairs"]
    assert counts["same"] + counts["differ"] + counts["only_in_b"] == found["b"]["pairs"]
    assert counts["differ"] and counts["only_in_a"]
    assert sum(found["questions"]["why_none_in_b"].values()) == counts["only_in_a"]
    assert sum(found["questions"]["why_none_in_a"].values()) == counts["only_in_b"]


def test_questions_that_only_one_asked(folder):
    found = compared(folder, "half", "one")
    asked = found["questions"]
    assert (asked["common"], asked["only_in_a"], asked["only_in_b"]) == (12, 0, 12)
    assert pairs_of(found)["same"] == found["a"]["pairs"], "a question's pair does not depend on the others"
    assert set(found["conditions"]["options"]) == {"limit"}


def test_a_repeated_question_counts_once_and_the_table_says_so(folder, tmp_path):
    source = photos(tmp_path / "photos", rows=6)
    source.write_text(
        source.read_text() + source.read_text().splitlines()[0].replace('"id": "', '"id": "again-') + "\n"
    )
    make_run(tmp_path / "repeated", source)
    assert compare(tmp_path / "repeated", folder / "one")["a"]["questions"] == 7
    _, out, _ = visrl("inspect", tmp_path / "repeated", folder / "one")
    assert "A repeated question counts once." in out
    assert "counts once" not in visrl("inspect", folder / "half", folder / "one")[1]


def test_labels_that_were_wrong_are_among_the_drops(folder, tmp_path):
    boxes = [[0.1, 0.1, 0.5, 0.5], [0.5, 0.1, 0.2, 0.4]]  # the second is written from another corner
    make_run(tmp_path / "labels", photos(tmp_path / "photos", rows=6, boxes=boxes), box_win=0.6)
    first, *_ = compare(tmp_path / "labels", folder / "one")["drops"]
    assert first == {"unit": "labels", "stage": "label", "reason": "reversed_box", "a": 6, "b": 0}
    code, out, err = visrl("inspect", folder / "one", tmp_path / "labels")
    assert code == 0 and "reversed_box" in out, err


def test_other_pictures_without_labels(folder):
    found = compared(folder, "one", "other")
    assert found["questions"]["common"] == 0
    assert found["audit"]["b"]["cells"] is None and found["audit"]["difference"] is None
    assert found["audit"]["a"]["cells"]["WP-LN"]["percent"] is not None
    code, out, _ = visrl("inspect", folder / "one", folder / "other")
    text = " ".join(out.split())
    assert code == 0
    assert "The sources differ" in text and "No question is in both" in text
    assert "B: no question has a gold box" in text
    code, out, _ = visrl("inspect", folder / "other", folder / "other")
    assert code == 0 and "no question of either has a gold box" in out


def test_other_thresholds_and_what_they_cost(folder, tmp_path):
    run = make_run(tmp_path / "strict", folder / "photos" / "questions.jsonl", box_win=0.6).path
    finalize.filter_run(run, {"box_win": 1.0})
    found = compare(folder / "one", run)
    assert found["conditions"] == {"thresholds": {"box_win": {"a": 0.6, "b": 1.0}}}
    counts = pairs_of(found)
    assert counts["only_in_a"] and not counts["only_in_b"]
    assert found["questions"]["why_none_in_b"] == {"no_win": counts["only_in_a"]}
    drops = {drop["reason"]: drop["b"] - drop["a"] for drop in found["drops"] if drop["unit"] == "questions"}
    assert sum(drops.values()) == counts["only_in_a"]


def test_a_dataset_of_two_runs_says_what_all_of_them_had(folder):
    found = compared(folder, "one", "both")
    assert found["conditions"] == {"options": {"seed": {"a": 0, "b": "0, 1"}}}
    assert found["b"]["questions"] == 48 and found["questions"]["common"] == 24
    assert not found["questions"]["pairs"]["only_in_a"], "what one run paired the two together paired too"
    assert len(found["same_runs"]) == 1


def test_a_difference_of_shares():
    """Newcombe (1998), Table II, method 10, first example: 56/70 - 48/80 is 0.2, 0.0524 to 0.3339."""
    assert share_difference((48, 80), (56, 70)) == pytest.approx((0.2, 0.0524, 0.3339), abs=5e-5)
    assert share_difference((0, 0), (1, 2)) is None


def test_json_and_what_is_refused(folder, tmp_path):
    code, out, _ = visrl("inspect", folder / "one", folder / "seed", "--json")
    assert code == 0 and json.loads(out) == compared(folder, "one", "seed")
    code, out, _ = visrl("inspect", folder / "set", "--json")
    assert code == 0 and json.loads(out) == json.loads((folder / "one" / "report.json").read_text())
    assert visrl("inspect", folder / "one", folder / "seed", "--open")[0] == 2
    code, _, err = visrl("inspect", folder / "one", tmp_path / "no")
    assert code == 1 and "no such folder" in err


def test_two_versions_on_the_hub(folder, tmp_path):
    with LoopbackHub() as hub:
        environment = hub.environment(tmp_path / "home") | {"PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"}

        def run(*arguments):
            command = [sys.executable, "-m", "visrl_cli", *map(str, arguments)]
            done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
            return done.stdout

        run("push", folder / "one", "--hub-id", "user/set", "--tag", "v1.0", "--no-reload")
        run("push", "user/set@v1.0", folder / "seed", "--tag", "v1.1", "--no-reload")
        asked = len(hub.log)
        found = json.loads(run("inspect", "user/set@v1.0", "user/set@v1.1", "--json"))
        fetched = [path for _, path in hub.log[asked:] if "/resolve/" in path]
    assert found["a"]["name"] == "user/set@v1.0" and found["b"]["kind"] == "dataset"
    assert (found["a"]["questions"], found["b"]["questions"]) == (24, 48)
    assert found["questions"]["common"] == 24 and len(found["same_runs"]) == 1
    assert fetched and not any("/data/" in path for path in fetched), "no picture and no candidate is fetched"


def test_a_dataset_that_was_copied_in_part_is_not_inspected(tmp_path):
    run = make_run(tmp_path / "run", source=photos(tmp_path / "photos", **SHIPPED))
    made = build_dataset([run.path], tmp_path / "set")
    next((made.folder / "data" / "preferences").glob("*.parquet")).unlink()
    code, _, err = visrl("inspect", made.folder)
    assert code == 1 and "is missing" in err and "data/preferences/" in err
