"""The command line: results on stdout, one message and an exit code for what the user can fix."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.test_docs import find_command
from tests.helpers.command import visrl
from tests.helpers.hub_world import scripted_generate
from visrl_cli import gen
from visrl_data.calibration import calibrate
from visrl_data.calibration.config import CalibrationConfig
from visrl_data.core.config import GenConfig
from visrl_data.core.errors import VisRLError
from visrl_data.evaluation import evaluate
from visrl_data.evaluation.config import EvalConfig
from visrl_data.executors import generation
from visrl_data.models import model_folder
from visrl_train import stage_folder
from visrl_train.config import SftConfig

ROOT = Path(__file__).parents[2]


@pytest.fixture
def run(photo_source, scripted_roles, tmp_path):
    return generation.generate(GenConfig(source=str(photo_source)), tmp_path / "run", roles=scripted_roles).path


def test_inspect_prints_the_report(run):
    code, out, _ = visrl("inspect", run)
    assert code == 0
    assert "Yields" in out
    code, out, _ = visrl("inspect", run, "--json")
    assert json.loads(out) == json.loads((run / "report.json").read_text())


def test_filter_says_how_the_yield_changes(run):
    code, out, _ = visrl("filter", run, "--box-win", 1.0, "--json")
    assert code == 0
    change = json.loads(out)
    assert change["after"]["pairs"] == json.loads((run / "manifest.json").read_text())["counts"]["pairs"]
    code, out, _ = visrl("filter", run, "--box-win", 0.8)
    assert re.match(rf"Pairs: {change['after']['pairs']} -> {change['before']['pairs']} of 10 questions", out)


def test_filter_takes_the_box_critic_out_and_in_again(run):
    before = json.loads((run / "manifest.json").read_text())
    counts = [
        json.loads(visrl("filter", run, *flags, "--json")[1])["after"]["pairs"]
        for flags in (["--no-box-critic"], [], ["--box-critic"])
    ]
    assert counts[0] == counts[1] != counts[2], "what is not given stays as it is"
    assert json.loads((run / "manifest.json").read_text()) == before


def test_sweep_changes_nothing(run):
    before = (run / "manifest.json").read_bytes()
    code, out, _ = visrl("filter", run, "--sweep", "--json")
    assert code == 0 and len(json.loads(out)) == 25
    code, _, err = visrl("filter", run, "--sweep", "--box-win", "0.7", "--lose", "hardest")
    assert code == 2 and "--sweep with --box-win, --lose: " in err
    code, out, _ = visrl("filter", run, "--sweep")
    assert code == 0 and "0.8 / 0.2" in out
    assert (run / "manifest.json").read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["gen", "--attempts", "0"], 2, "--attempts 0: expected at least 1"),
        (["gen", "--attempts", "many"], 2, "'--attempts'"),
        (["gen", "--nonsense"], 2, "nonsense"),
        (["gen", "--speed", "3"], 2, "--estimate"),
        (["gen", "--columns", "a"], 2, "FIELD=COLUMN"),
        (["gen", "--source", "q.jsonl", "--columns", "a=b"], 2, "FIELD=COLUMN"),
        (["gen", "--images-root", "a=b", "--images-root", "a=c"], 2, "NAME once"),
        (["gen", "--source", "not/there.jsonl"], 1, "not/there.jsonl"),
        (["gen", "--config", "not-there.toml"], 2, "not-there.toml"),
        (["inspect", "not-there"], 1, "not-there"),
        (["filter", "not-there"], 1, "visrl gen"),
    ],
)
def test_what_the_user_can_fix_is_one_message(arguments, code, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    got, out, err = visrl(*arguments)
    assert (got, out) == (code, "")
    assert message in err and "Traceback" not in err
    assert list(tmp_path.iterdir()) == [], "nothing may be left behind by a refused command"


def test_no_default_folder_has_a_colon(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source, split = "mix:signs.toml", "train[:9%]"
    names = [
        gen.default_output(GenConfig(source=source, split=split)),
        calibrate.default_output(CalibrationConfig(source=source, split=split)),
        evaluate.default_output([source], EvalConfig(split=split)),
        stage_folder.default_output("sft", source, SftConfig(source=source)),
    ]
    assert [name for name in names if set(name.name) & set(":@/[]%")] == []
    assert all(len(name.parts) == 2 for name in names)


def test_a_threshold_that_contradicts_is_refused_and_nothing_changes(run):
    before = (run / "manifest.json").read_bytes()
    code, _, err = visrl("filter", run, "--box-win", 0.1)
    assert code == 2 and "above" in err
    assert (run / "manifest.json").read_bytes() == before


def test_estimate_from_a_stated_speed(photo_source):
    """10 questions of 24 calls at 2 calls a second: 2 minutes."""
    code, out, _ = visrl("gen", "--source", photo_source, "--estimate", "--speed", 2)
    assert code == 0
    assert out == "10 questions, at most 240 model calls, about 2.0 minutes.\n"


def test_one_is_not_counted_in_the_plural(photo_source):
    _, out, _ = visrl("gen", "--source", photo_source, "--limit", 1, "--estimate", "--speed", 2)
    assert out == "1 question, at most 24 model calls, about 0.2 minutes.\n"


@pytest.mark.parametrize("group", [[], ["train"]])
def test_the_help_of_a_group_has_examples_that_parse(group):
    """Each line after "Examples:" that begins with visrl is a command of today."""
    _, out, _ = visrl(*group, "--help")
    examples = [line.strip() for line in out.partition("Examples:")[2].splitlines() if line.strip().startswith("visrl")]
    assert len(examples) >= 3
    for example in examples:
        command, _, rest = find_command(shlex.split(example)[1:])
        command.make_context(None, rest)


def test_doctor_checks_this_machine():
    code, out, _ = visrl("doctor", "--json")
    report = json.loads(out)
    assert any("CPU" in check["what"] for check in report["checks"])
    assert report["ok"] == (code == 0) == all(check["ok"] for check in report["checks"] if check["needed"])
    shown_code, out, _ = visrl("doctor")
    assert shown_code == code
    for check in report["checks"]:
        assert check["what"].partition(":")[0] in out and check["fix"] in out


def test_doctor_names_the_command_that_fixes_what_is_needed(monkeypatch):
    monkeypatch.setattr("visrl_data.models.model_folder.ALIASES", {"spotlight": ROOT / "no-such-folder"})
    code, out, _ = visrl("doctor")
    assert code == 1 and re.search(r"missing Spotlight.*\n +-> pip install", out)
    assert json.loads(visrl("doctor", "--json")[1])["ok"] is False


def test_help_is_quick_and_shows_an_example():
    """No torch behind --help: a quarter of a second, here with room for a busy machine."""
    code = "import sys, visrl_cli.main; sys.exit(bool({'torch', 'transformers', 'pyarrow'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    for command in ("gen", "filter", "inspect", "doctor"):
        _, out, _ = visrl(command, "--help")
        assert f"visrl {command}" in out.split("xample", 1)[1]


def test_ci_runs_the_readmes_test_command():
    blocks = re.findall(r"```bash\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    [command] = [block.strip() for block in blocks if "/pytest -n 2" in block]
    assert command in (ROOT / ".ci" / "run").read_text()


def test_estimate_times_the_first_chunk_and_keeps_it(untrained, tmp_path):
    arguments = [
        "gen",
        "--model",
        untrained,
        "--limit",
        8,
        "--chunk-size",
        2,
        "--max-new-tokens",
        4,
        "-o",
        tmp_path / "r",
    ]
    code, out, _ = visrl(*arguments, "--estimate", "--json")
    estimate = json.loads(out)
    assert (code, estimate["questions"], estimate["measured_questions"], estimate["calls"]) == (0, 8, 2, 192)
    assert estimate["prompt_tokens"] > 0 and estimate["hours"] > 0
    assert [f.name for f in (tmp_path / "r" / "work").iterdir()] == ["chunk-00000000"]
    code, out, err = visrl(*arguments, "--json")
    assert code == 0
    assert "Resuming: 1 of 4 chunks done" in err
    assert json.loads(out)["yields"]["all"]["questions"] == 8


def test_an_estimate_of_another_run_in_the_folder_is_refused(run, photo_source, tmp_path):
    """Its times say nothing about this one."""
    code, out, err = visrl("gen", "--source", photo_source, "--seed", 7, "-o", run, "--estimate")
    assert (code, out) == (1, "") and "seed: 0 -> 7" in err


def test_an_estimate_counts_the_rows_that_were_dropped_too(photo_source, tmp_path):
    """4 of 12 rows timed, 2 of them without an answer: three times their tokens for all, not six times."""
    rows = photo_source.read_text().splitlines()
    bad = [row.replace('"answers"', '"no_answers"') for row in rows[:2]]
    photo_source.write_text("\n".join([*(row.replace('"q', '"bad') for row in bad), *rows]) + "\n")
    with scripted_generate():
        words = ["gen", "--source", photo_source, "--chunk-size", 4, "-o", tmp_path / "r", "--estimate", "--json"]
        estimate = json.loads(visrl(*words)[1])
    [timed] = [json.loads(line) for line in (tmp_path / "r" / "times.jsonl").read_text().splitlines()]
    assert (estimate["questions"], estimate["measured_questions"], timed["questions"]) == (12, 4, 2)
    assert estimate["completion_tokens"] == 3 * timed["completion_tokens"]
    assert estimate["dropped"] == {"no_question": 2}
    with scripted_generate():
        out = visrl(*words[:-1])[1]
    assert "Dropped: 2 of the first 4 rows.\nno_question: there is no question. First: bad0, line 1: " in out


@pytest.mark.parametrize("flags", [(), ("--json",)])
def test_a_source_whose_every_row_drops_is_an_error(photo_source, tmp_path, flags):
    photo_source.write_text(photo_source.read_text().replace('"image": "', '"image": "gone-'))
    with scripted_generate():
        code, out, err = visrl("gen", "--source", photo_source, "-o", tmp_path / "r", *flags)
        assert code == 1 and "None of the 10 rows of this source came through.\n  image_missing: there is no" in err
        assert "First: q0, line 1: " in err and "No pairs." not in err
        assert visrl("gen", "--source", photo_source, "-o", tmp_path / "r", *flags)[0] == 1, "a second time too"


def test_each_reason_of_a_drop_is_shown_with_one_that_it_happened_to(photo_source, tmp_path):
    with photo_source.open("a") as file:
        file.write(json.dumps({"id": "gone", "question": "q", "answers": ["a"], "image": "gone.png"}) + "\n{not json\n")
    with scripted_generate():
        code, out, _ = visrl("gen", "--source", photo_source, "-o", tmp_path / "r")
    told = " ".join(out.split())
    assert code == 0 and "image_missing: there is no such image. First: gone, line 11: no file 'gone.png'" in told
    assert "bad_json: the line is not a JSON object. First: line-12, line 12: " in told
    page = (tmp_path / "r" / "report.html").read_text()
    assert "no file &#39;gone.png&#39;" in page and "there is no such image" in page


def test_a_finished_run_says_that_it_is_complete(photo_source, tmp_path):
    words = ["gen", "--source", photo_source, "-o", tmp_path / "r"]
    with scripted_generate():
        first, second = visrl(*words)[2], visrl(*words)[2]
    assert "Writing the run to" in first and "Already complete" not in first
    assert f"A finished run is in {tmp_path}/r. Checking its options" in second
    assert "Already complete: nothing was generated." in second


def test_a_finished_run_with_a_damaged_file_is_not_complete(photo_source, tmp_path):
    words = ["gen", "--source", photo_source, "-o", tmp_path / "r"]
    with scripted_generate():
        visrl(*words)
        (tmp_path / "r" / "images" / "part-00000.parquet").unlink()
        code, _, err = visrl(*words)
    assert code == 1 and "Already complete" not in err
    assert "images/part-00000.parquet is missing or was changed" in err.replace("\n", "")


def test_spotlight_warns_of_images_of_another_world_before_anything_runs(photo_source, tmp_path):
    with scripted_generate():
        for flags in ((), ("--estimate",)):
            err = visrl("gen", "--source", photo_source, "--limit", 1, "-o", tmp_path / "r", *flags)[2]
            assert "Spotlight is a small model of its own drawn world" in err


@pytest.mark.parametrize("command", ["gen", "calibrate", "eval", "evolve", "ask"])
@pytest.mark.parametrize("is_own", [False, True])
def test_every_command_warns_of_images_of_another_world(command, is_own, photo_source, tmp_path, monkeypatch):
    def stop(*_, **__):
        raise VisRLError("enough")

    words = ["--source", "spotlight:level=relation" if is_own else photo_source, "-o", tmp_path / "out"]
    if command == "evolve":
        words += ["--eval-source", "spotlight"]
    if command == "ask":
        words = [] if is_own else [photo_source.parent / "0.png", "What is this?"]
    monkeypatch.setattr(model_folder, "fetch_model", stop)
    code, _, err = visrl(command, *words)
    assert code == 1 and "enough" in err
    assert ("Spotlight is a small model of its own drawn world" in err) != is_own


@pytest.mark.parametrize("is_file", [True, False])
def test_an_output_that_is_something_else_is_refused_before_a_model_is_loaded(is_file, photo_source, tmp_path):
    output = photo_source if is_file else photo_source.parent
    code, _, err = visrl("gen", "--source", photo_source, "--model", "user/never-fetched", "-o", output)
    assert code == 1 and err.endswith("Choose another --output.\n")
    assert ("is no folder" if is_file else "is not empty") in err


def test_publishing_asks_for_a_license_before_the_run(photo_source, tmp_path, monkeypatch):
    photo_source.write_text(photo_source.read_text().replace('"license"', '"lizenz"'))
    monkeypatch.setenv("HF_TOKEN", "hf_none")
    words = ["gen", "--source", photo_source, "-o", tmp_path / "r", "--push-to-hub", "--hub-id", "me/cars"]
    code, _, err = visrl(*words)
    assert code == 2 and "rows of this source state no license" in err and "--license ID" in err
    assert not (tmp_path / "r").exists()


def test_a_run_without_pairs_ends_with_advice(photo_source, tmp_path):
    words = ["gen", "--source", photo_source, "--box-win", 1.0, "--response-win", 1.0, "--box-lose", 0, "--attempts", 1]
    with scripted_generate():
        code, out, err = visrl(*words, "--limit", 1, "-o", tmp_path / "r")
        assert code == 0 and "Spotlight is a small model of its own drawn world" in err
        _, _, err = visrl("gen", "--source", photo_source, "--box-win", 0.6, "-o", tmp_path / "one more")
    assert f"Next: visrl train rl1 --data '{tmp_path}/one more'; " in err


@pytest.mark.parametrize(
    "words",
    [
        ["inspect", "runs/phtos"],
        ["train", "rl1", "--data", "runs/phtos"],
        ["rebuild", "runs/phtos", "--images", "runs"],
        ["gen", "--model", "runs/phtos"],
        ["gen", "--source", "runs/phtos"],
    ],
    ids=lambda words: " ".join(words[:2]),
)
def test_a_mistyped_folder_is_not_looked_for_on_the_hub(words, tmp_path, monkeypatch):
    (tmp_path / "runs" / "photos").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    code, out, err = visrl(*words)
    assert (code, out) == (1, "")
    assert re.search(r"runs/phtos'?: (no such folder|it is no folder here|was not found)", err) and "again" not in err
