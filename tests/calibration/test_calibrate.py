"""`visrl calibrate` from end to end: counts add up, nothing is asked twice, and what gen and the card show of it."""

import dataclasses
import json
import signal
import time

import pyarrow.parquet as pq
import pytest

from tests.conftest import draw_photo
from tests.helpers import loopback_openai
from tests.helpers.command import visrl
from tests.helpers.dataset_runs import SHIPPED, make_run, photos
from tests.helpers.hostile import PAYLOADS, structure
from tests.tools.killing import content, start
from visrl_cards.dataset import render_dataset_card
from visrl_cli.calibration_note import note_calibration
from visrl_data.calibration import calibrate as calibration
from visrl_data.calibration.config import CalibrationConfig
from visrl_data.core.errors import UsageError, VisRLError
from visrl_data.core.prompts import PromptSet
from visrl_data.engines.protocol import Role
from visrl_data.engines.refusals import RequestRefused
from visrl_data.engines.scripted import ScriptedEngine
from visrl_data.publishing.dataset import Stamp, build_dataset
from visrl_data.runs.calibrations import FOLDER, attach_last, last_calibration, run_key
from visrl_data.runs.run_folder import Run

RIGHT = {"7", "seven", "SEVEN", "the seven", "The answer is 7.", "The answer is seven."}


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """The index of calibrations is in the folder that the command is called in."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def questions(tmp_path):
    """Twelve questions on six drawn pictures, two thirds with a gold box, two answers; two rows that can't be read."""
    file = photos(tmp_path / "photos", 12, answers=lambda i: ["7", "seven"] if i % 2 else ["red"])
    rows = [json.dumps({"id": "gone", "question": "q", "answers": ["a"], "image": "gone.png"}), "{not json"]
    file.write_text(file.read_text() + "".join(row + "\n" for row in rows))
    return file


class Judge(ScriptedEngine):
    """A critic that knows the responses of the first two questions' answers, and keeps what it was asked."""

    def __init__(self, script=None, deterministic=True):
        super().__init__(self._keep)
        self.requests, self.says, self.deterministic = [], script or say, deterministic

    def _keep(self, request, seed):
        self.requests.append(request)
        return self.says(request)


def words(request):
    return "\n".join(part.text for part in request.parts)


def say(request):
    """Right of a response that equals the standard answer, wrong of any other; right of crops that are not gray."""
    text = words(request)
    if request.parts[0].kind == "crop":
        return '{"score": 1.0}' if len(request.images[0].getcolors(99999)) > 1 else '{"score": 0.0}'
    standard = text.partition("answer: ")[2] or text.partition("answer is: ")[2]
    standard = standard.partition("\n")[0].split(" or ")
    response = (text.partition("Model answer: ")[2] or text.partition("replied: ")[2]).partition("\n")[0]
    return '{"score": 1.0}' if response in standard else "I can't say" if not response else '{"score": 0.0}'


def run(source, folder, judge=None, on_chunk=lambda _: None, **options):
    judge = judge or Judge()
    config = CalibrationConfig(**{"source": str(source), "questions": 14, "chunk_size": 4} | options)
    return calibration.calibrate(config, folder, on_chunk, Role(judge, False)), judge


def test_counts_add_up(questions, tmp_path):
    steps = []
    report, judge = run(questions, tmp_path / "c", on_chunk=steps.append)
    assert report["calls"] == len(judge.requests) == steps[0].total == steps[-1].done
    assert steps[0].done == 0, "the calls are counted before the first one"
    assert report["calls"] == report["box"]["cases"] + report["response"]["cases"]
    assert (report["source"]["drawn"], report["questions"]) == (14, 12)
    assert report["dropped"] == {"bad_json": 1, "image_missing": 1}
    assert report["source"]["drawn"] == report["questions"] + sum(report["dropped"].values())
    for critic in ("box", "response"):
        figures = report[critic]
        again = figures["wording"]["changed"]["of"]
        assert figures["cases"] == sum(kind["cases"] for kind in figures["kinds"]) + again
        assert figures["unparsed"]["count"] == sum(figures["unparsed_reasons"].values())
    assert report["response"]["unparsed_reasons"] == {"no_json": 12}, "of the empty replies"
    assert report["with_gold_boxes"] == 8
    assert json.loads((tmp_path / "c" / "report.json").read_text()) == json.loads(json.dumps(report))


def test_the_critic_is_asked_as_in_a_run(questions, tmp_path):
    """The same templates, and the standard answer of several annotators or of several accepted ones."""
    _, judge = run(questions, tmp_path / "c")
    prompts = PromptSet()
    expected = prompts.response_critic.parts(question="What is thing 1?", answer="7 or seven", response="7")
    [request] = [r for r in judge.requests if r.parts == expected]
    assert request.images[0].size == draw_photo(0).size and request.sampling.temperature == 0.0
    crops = [
        r
        for r in judge.requests
        if r.parts == prompts.box_critic.parts(question="What is thing 1?", answer="7 or seven")
    ]
    sizes = {r.images[0].size for r in crops}
    assert len(crops) == 8 and len(sizes) > 3, (
        "blank, another image, random, whole; gold, half, far, loose where they fit"
    )


def test_questions_are_drawn_by_seed_from_the_rows_of_the_run(questions, tmp_path):
    first = run(questions, tmp_path / "a", questions=5)[0]
    again = run(questions, tmp_path / "b", questions=5)[0]
    other = run(questions, tmp_path / "c", questions=5, seed=1)[0]
    ids = [set(pq.read_table(tmp_path / name / "verdicts.parquet")["question"].to_pylist()) for name in "abc"]
    assert ids[0] == ids[1] != ids[2] and all(len(names) <= 5 for names in ids)
    assert first == again and first["box"] != other["box"]
    last = run(questions, tmp_path / "d", limit=2, questions=5)[0]
    assert last["source"]["drawn"] == 2


def test_a_finished_one_asks_nothing_and_other_thresholds_ask_nothing(questions, tmp_path):
    before, _ = run(questions, tmp_path / "c")
    after, judge = run(questions, tmp_path / "c", response_win=0.5, response_lose=0.4)
    assert judge.requests == []
    assert after["response"]["thresholds"] == (0.5, 0.4) and before["response"]["thresholds"] == (0.8, 0.2)
    assert after["response"]["separation"] == before["response"]["separation"]


def test_vllms_use_of_the_machine_may_differ_when_it_is_resumed():
    """As in `visrl gen`: who ran out of memory resumes with less."""
    plain = CalibrationConfig()
    less = dataclasses.replace(plain, engine="vllm", vllm_options={"gpu_memory_utilization": 0.5, "max_model_len": 9})
    more = dataclasses.replace(less, vllm_options={"gpu_memory_utilization": 0.9, "max_model_len": 9})
    other = dataclasses.replace(less, vllm_options={"gpu_memory_utilization": 0.5, "max_model_len": 8})
    assert less.verdict_options() == more.verdict_options() != other.verdict_options()
    assert plain.verdict_options()["vllm_options"] is None


@pytest.mark.parametrize("change", [{"seed": 1}, {"score_mode": "expected"}, {"questions": 6}, {"box_critic": False}])
def test_another_calibration_in_the_folder_is_refused(questions, tmp_path, change):
    run(questions, tmp_path / "c")
    with pytest.raises(VisRLError, match="started with different options"):
        run(questions, tmp_path / "c", **change)


def test_somebody_elses_folder_is_refused(questions, tmp_path):
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "thesis.txt").write_text("mine")
    with pytest.raises(VisRLError, match="is not empty"):
        run(questions, tmp_path / "c")
    assert [f.name for f in (tmp_path / "c").iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("name", ["conditions.json", "verdicts.parquet"])
def test_damage_is_one_message_whose_advice_works(questions, tmp_path, name):
    report, _ = run(questions, tmp_path / "c")
    whole = (tmp_path / "c" / name).read_bytes()
    (tmp_path / "c" / name).write_bytes(whole[:7])
    with pytest.raises(VisRLError, match=name) as caught:
        run(questions, tmp_path / "c")
    if "Remove this file" in str(caught.value):
        (tmp_path / "c" / name).unlink()
        assert run(questions, tmp_path / "c")[0] == report
    else:
        assert "Put back a copy of it, or choose another --output" in str(caught.value)
        assert run(questions, tmp_path / "d")[0] == report


def test_what_was_asked_is_not_asked_again(questions, tmp_path):
    """The critic breaks down in its second chunk: the first chunk stays, and the end is that of a whole one."""
    whole, judge = run(questions, tmp_path / "whole")
    calls = len(judge.requests)

    class Broken(Exception):
        pass

    broken = Judge()
    broken.says = lambda request: say(request) if len(broken.requests) <= calls // 2 else fail()

    def fail():
        raise Broken

    with pytest.raises(Broken):
        run(questions, tmp_path / "cut", broken)
    kept = sum(pq.read_metadata(f).num_rows for f in (tmp_path / "cut" / "work").iterdir())
    assert kept > 0 and not (tmp_path / "cut" / "report.json").exists()
    steps = []
    resumed, judge = run(questions, tmp_path / "cut", on_chunk=steps.append)
    assert (len(judge.requests), steps[0].done) == (calls - kept, kept)
    assert resumed == whole and content(tmp_path / "cut") == content(tmp_path / "whole")


def test_a_request_that_the_critic_refuses_is_unparsed_and_costs_no_other(questions, tmp_path):
    class Refuses(Judge):
        def generate(self, requests):
            if any("Model answer: I'm sorry" in words(request) for request in requests):
                raise RequestRefused("no")
            return super().generate(requests)

    report, _ = run(questions, tmp_path / "c", Refuses())
    assert report["response"]["unparsed_reasons"] == {"model_refused": 12, "no_json": 12}


def test_an_engine_that_may_change_its_mind_is_asked_twice(questions, tmp_path):
    report, _ = run(questions, tmp_path / "c", Judge(deterministic=False))
    assert report["box"]["repeat"]["changed"]["count"] == 0 < report["box"]["repeat"]["changed"]["of"]
    assert not report["deterministic"]


def test_a_metric_needs_no_calibration(questions, tmp_path):
    report, _ = run(questions, tmp_path / "c", response_critic="normalized")
    assert report["response"] is None and report["box"] is not None
    with pytest.raises(UsageError, match="no critic to calibrate"):
        CalibrationConfig(box_critic=False, response_critic="normalized")


def test_rows_that_can_all_not_be_read_are_an_error(questions, tmp_path):
    questions.write_text('{"id": "gone", "question": "q", "answers": ["a"], "image": "gone.png"}\n')
    with pytest.raises(
        VisRLError, match="None of the 1 rows that were drawn could be read. First: gone, image_missing"
    ):
        run(questions, tmp_path / "c")


def test_a_served_critic_that_is_lost_is_not_asked_again_for_what_it_said(questions, tmp_path, monkeypatch):
    """One chunk of all questions; the server goes away in the middle, and its replies until then are kept."""
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    gone = [True]
    server = loopback_openai.Server(
        lambda request, seed: say(request), lambda asked: "401" if gone[0] and len(server.log) > 40 else None
    )
    command = ["calibrate", "--source", questions, "--critic", "critic", "--critic-engine", "openai",
               "--critic-base-url", server.url, "--questions", 14, "--in-flight", 1, "-o", tmp_path / "c"]  # fmt: skip
    try:
        code, _, err = visrl(*command)
        assert code == 1 and server.url in err
        gone[0] = False
        code, out, err = visrl(*command, "--json")
        assert code == 0, err
    finally:
        server.close()
    report = json.loads(out)
    assert report["box"]["repeat"] is not None, "a server may reply something else to the same request"
    verdicts = pq.read_table(tmp_path / "c" / "verdicts.parquet").to_pylist()
    again = sum(verdict["variant"] == "repeat" for verdict in verdicts)
    asked = {digest: count for digest, count in server.repeats().items() if count > 2}
    assert asked == {} or max(asked.values()) == 3, "once, once again where it is asked twice, and the lost one"
    assert len(server.log) <= len(verdicts) + 2 and len(server.log) > len(verdicts) - again
    assert not list((tmp_path / "c").glob("replies*"))


def test_a_kill_in_the_middle_changes_no_byte(tmp_path, untrained):
    command = (
        "calibrate",
        "--critic",
        untrained,
        "--questions",
        6,
        "--chunk-size",
        2,
        "--max-new-tokens",
        8,
        "-o",
        "e",
    )
    assert visrl(*command)[0] == 0
    whole = content(tmp_path / "e")
    (tmp_path / "e").rename(tmp_path / "whole")
    process = start(*command, cwd=tmp_path)
    while not (tmp_path / "e/work/chunk-00000000.parquet").exists():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (tmp_path / "e/report.json").exists()
    assert visrl(*command)[0] == 0
    assert content(tmp_path / "e") == whole


def test_the_command_says_what_it_asks_prints_80_columns_and_gen_shows_it(questions, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    server = loopback_openai.Server(lambda request, seed: say(request))
    served = ["--critic", "critic", "--critic-engine", "openai", "--critic-base-url", server.url]
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    try:
        code, out, err = visrl("calibrate", "--source", questions, *served, "-o", "c")
    finally:
        server.close()
    assert code == 0, err
    assert "12 questions (2 more rows were dropped): " in err and "calls to the critic." in err
    assert max(map(len, out.splitlines())) <= 80
    assert "critic as critic: 12 questions" in out and "false wins, of wrong cases" in out
    assert "image_missing: there is no such image. First: gone, line 13" in " ".join(out.split())
    assert "c/report.html" in err


def test_gen_names_the_last_calibration_or_the_command_and_the_card_carries_it(tmp_path):
    source = photos(tmp_path / "photos", 24, **SHIPPED)
    options = {"model": "me/actor", "max_pixels": 5000}
    made = make_run(tmp_path / "run", source, **options)
    note = note_calibration(made)
    assert note == (
        "This critic was never calibrated with these prompts. Is it any good? "
        f"visrl calibrate --model me/actor --source {source} --max-pixels 5000"
    )
    report, _ = run(source, tmp_path / "c", Judge(lambda request: '{"score": 1.0}'), questions=6, **options)
    assert report["key"] == run_key(made.identity(), made.config())
    note = note_calibration(made)
    assert "6 questions of questions (train)" in note and "100.0 % false wins" in note and "warnings" in note
    assert f"{tmp_path}/c/report.html" in note and "\n" not in note
    attach_last(made)
    assert str(tmp_path) not in (made.path / "calibration.json").read_text(), "no path of this machine"
    dataset = build_dataset([made.path], tmp_path / "set", Stamp("v1", "me/x", "x"))
    [published] = dataset.manifest["runs"]
    assert published["calibration"]["questions"] == 6
    card = render_dataset_card(dataset.folder, dataset.manifest)
    assert "measured by `visrl calibrate`" in card and "It gave 1 to every case" in card
    plain = make_run(tmp_path / "run-2", source, **options)
    assert (
        build_dataset([plain.path], tmp_path / "set-2", Stamp("v1", "me/x", "x")).manifest["runs"][0]["id"]
        == (published["id"])
    ), "the same run, with and without it"


def test_a_calibration_counts_for_its_own_critic_and_prompts_only(tmp_path):
    source = photos(tmp_path / "photos", 8, **SHIPPED)
    report, _ = run(source, tmp_path / "c", questions=4)
    made = make_run(tmp_path / "run", source)
    assert last_calibration(run_key(made.identity(), made.config()))["key"] == report["key"]
    config = made.config() | {"score_mode": "expected"}
    assert last_calibration(run_key(made.identity(), config)) is None
    other = made.identity()
    other["prompts"] = {name: text for name, text in other["prompts"].items() if "box" not in name}
    assert run_key(other, made.config()) != report["key"]
    other = made.identity()
    other["critic"]["digest"] = "another"
    assert run_key(other, made.config()) != report["key"]
    assert run_key(made.identity(), made.config() | {"box_critic": False, "response_critic": "exact"}) is None
    attach_last(made)
    file = made.path / "calibration.json"
    file.write_text(file.read_text().replace(report["key"], "another"))
    assert (
        "calibration" not in build_dataset([made.path], tmp_path / "set", Stamp("v1", "me/x", "x")).manifest["runs"][0]
    )


def test_a_strangers_calibration_adds_no_markup_to_a_card(tmp_path):
    source = photos(tmp_path / "photos", 24, **SHIPPED)
    run(source, tmp_path / "c", Judge(lambda request: '{"score": 1.0}'), questions=6)
    made = make_run(tmp_path / "run", source)
    attach_last(made)
    dataset = build_dataset([made.path], tmp_path / "set", Stamp("v1", "me/x", "x"))
    plain = structure(render_dataset_card(dataset.folder, dataset.manifest))
    [published] = dataset.manifest["runs"]
    for payload in PAYLOADS:
        texts = {"critic": payload, "source": payload, "split": payload}
        published["calibration"] |= texts
        published["calibration"]["box"]["warnings"] = [payload] * len(published["calibration"]["box"]["warnings"])
        assert structure(render_dataset_card(dataset.folder, dataset.manifest)) == plain, payload


def test_a_folder_that_can_not_be_written_costs_the_note_alone(questions, tmp_path, caplog):
    FOLDER.write_text("in the way")
    report, _ = run(questions, tmp_path / "c")
    assert report["calls"] and "so `visrl gen` won't show it" in caplog.text


def test_the_options_of_a_run_are_those_of_its_calibration(questions, tmp_path, monkeypatch):
    made = make_run(tmp_path / "run", questions, attempts=2, response_win=0.7, crop_min_side=0.2)
    given = []
    monkeypatch.setattr("visrl_cli.calibrate._run", lambda config, output, as_json: given.append(config))
    assert visrl("calibrate", "--config", made.path / "config.toml", "--questions", 5)[0] == 0
    [config] = given
    assert (config.source, config.response_win, config.crop_min_side) == (str(questions), 0.7, 0.2)
    assert config.questions == 5
    (tmp_path / "own.toml").write_text("nonsense = 1\n")
    code, _, err = visrl("calibrate", "--config", tmp_path / "own.toml")
    assert code == 2 and "unknown option 'nonsense'" in err and len(given) == 1


def test_the_shipped_pair_is_not_nagged_about(tmp_path):
    made = make_run(tmp_path / "run", "spotlight", limit=2)
    assert note_calibration(made) is None
    assert note_calibration(Run(made.path)) is None


def test_a_mistyped_source_is_refused_before_the_critic_is_looked_at(tmp_path, monkeypatch):
    monkeypatch.setattr(calibration.model_pair, "find_actor", pytest.fail)
    with pytest.raises(VisRLError, match=r"nothere\.jsonl: no such file"):
        calibration.calibrate(CalibrationConfig(source="nothere.jsonl"), tmp_path / "out")
    assert not (tmp_path / "out").exists()
