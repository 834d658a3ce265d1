"""The whole pipeline on scripted replies: counts, resumption to the same bytes, refusals."""

import json
import shutil

import pytest

from tests.conftest import scripted_reply
from visrl_data.core import files
from visrl_data.core.config import GenConfig, to_toml
from visrl_data.core.errors import VisRLError
from visrl_data.engines.protocol import Role
from visrl_data.engines.refusals import raise_refusals
from visrl_data.engines.scripted import ScriptedEngine
from visrl_data.executors.generation import generate
from visrl_data.pipeline import actor, factory, finalize
from visrl_data.runs import run_folder


def config(source, **options):
    return GenConfig(source=str(source), **{"chunk_size": 3, **options})


def file_bytes(run):
    """Everything of a finished run but the times."""
    return {
        str(f.relative_to(run.path)): f.read_bytes()
        for f in run.path.rglob("*")
        if f.is_file() and f.name not in {"times.jsonl", ".lock"}
    }


def test_a_run_holds_what_it_says(photo_source, scripted_roles, tmp_path):
    run = generate(config(photo_source), tmp_path / "run", roles=scripted_roles)
    manifest = run.manifest()
    assert manifest["counts"]["questions"] == 10
    assert manifest["counts"]["images"] == 5, "each picture once"
    assert manifest["counts"]["candidates"] == 60, "2N a question at N = 3"
    assert 0 < manifest["counts"]["pairs"] <= 10
    assert not (run.path / "work").exists()
    for name, digest in manifest["sha256"].items():
        assert files.file_digest(run.path / name) == digest
    candidates = run.table("candidates").to_pylist()
    assert [c["index"] for c in candidates[:6]] == [0, 1, 2, 3, 4, 5]
    assert len({c["focus_seed"] for c in candidates}) == 60
    assert all(c["box_score_state"] == "ok" for c in candidates)


def test_no_two_draws_share_a_seed(photo_source, scripted_roles, tmp_path):
    """Not a box and its response, not two candidates, not two rounds, not two runs with other seeds."""
    drawn = []
    for name, options in (("a", {}), ("b", {"round": 1}), ("c", {"seed": 1})):
        run = generate(config(photo_source, **options), tmp_path / name, roles=scripted_roles)
        drawn += [c[part] for c in run.table("candidates").to_pylist() for part in ("focus_seed", "response_seed")]
    assert len(drawn) == 3 * 2 * 60 == len(set(drawn))


def test_a_call_is_made_once(photo_source, scripted_roles, tmp_path):
    """Six boxes, six responses and at most six verdicts of each critic a question; equal inputs are judged once."""
    run = generate(config(photo_source), tmp_path / "run", roles=scripted_roles)
    calls = sum(record["calls"] for record in run_folder.times(run))
    responses = {(c["question_id"], c["response"]) for c in run.table("candidates").to_pylist()}
    assert 10 * 12 + len(responses) < calls <= 10 * 18 + len(responses)


@pytest.mark.parametrize("cuts", [[1], [1, 1], [2, 1], [0, 3]])
def test_an_interrupted_run_ends_with_the_same_bytes(photo_source, scripted_roles, tmp_path, cuts):
    whole = generate(config(photo_source), tmp_path / "whole", roles=scripted_roles)
    for cut in cuts:
        run = generate(config(photo_source), tmp_path / "cut", max_chunks=cut, roles=scripted_roles)
        assert not run.is_finished
    run = generate(config(photo_source), tmp_path / "cut", roles=scripted_roles)
    assert file_bytes(run) == file_bytes(whole)


def test_a_half_written_chunk_is_made_again(photo_source, scripted_roles, tmp_path):
    whole = generate(config(photo_source), tmp_path / "whole", roles=scripted_roles)
    run = generate(config(photo_source), tmp_path / "cut", max_chunks=2, roles=scripted_roles)
    run.chunk_path(1).rename(run.chunk_path(1).with_suffix(".tmp"))
    (run.chunk_path(1).with_suffix(".tmp") / "drops.parquet").write_bytes(b"PAR1")
    (run.path / "images.tmp").mkdir()
    run = generate(config(photo_source), tmp_path / "cut", roles=scripted_roles)
    assert file_bytes(run) == file_bytes(whole)


def test_a_chunk_whose_writing_fails_is_no_chunk(photo_source, scripted_roles, tmp_path, monkeypatch):
    whole = generate(config(photo_source), tmp_path / "whole", roles=scripted_roles)
    write, written = run_folder.pq.write_table, []

    def fails_in_the_second_chunk(*args, **options):
        written.append(write(*args, **options))
        if len(written) == 6:
            raise OSError("no space left")

    monkeypatch.setattr(run_folder.pq, "write_table", fails_in_the_second_chunk)
    with pytest.raises(OSError, match="no space"):
        generate(config(photo_source), tmp_path / "cut", roles=scripted_roles)
    run = run_folder.Run(tmp_path / "cut")
    assert [run.has_chunk(i) for i in range(4)] == [True, False, False, False]
    monkeypatch.undo()
    run = generate(config(photo_source), tmp_path / "cut", roles=scripted_roles)
    assert file_bytes(run) == file_bytes(whole)


def test_chunk_size_changes_no_row_of_a_deterministic_engine(photo_source, scripted_roles, tmp_path):
    a = generate(config(photo_source), tmp_path / "a", roles=scripted_roles)
    b = generate(config(photo_source, chunk_size=100), tmp_path / "b", roles=scripted_roles)
    for name in run_folder.TABLES:
        assert a.table(name) == b.table(name)


def test_few_huge_images_are_decoded_at_the_same_time(photo_source, scripted_roles, tmp_path, monkeypatch):
    whole = generate(config(photo_source), tmp_path / "whole", roles=scripted_roles)
    groups, decode = [], factory._decode
    monkeypatch.setattr(actor, "GROUP_PIXELS", 1)
    monkeypatch.setattr(factory, "_decode", lambda questions: groups.append(len(questions)) or decode(questions))
    alone = generate(config(photo_source), tmp_path / "alone", roles=scripted_roles)
    assert set(groups) == {1}
    tables = ("questions/", "candidates/", "drops/")
    first, second = ({k: v for k, v in file_bytes(run).items() if k.startswith(tables)} for run in (whole, alone))
    assert first == second and first


def test_other_options_are_refused_and_shown(photo_source, scripted_roles, tmp_path):
    run = generate(config(photo_source), tmp_path / "run", max_chunks=1, roles=scripted_roles)
    before = file_bytes(run)
    with pytest.raises(VisRLError, match="temperature: 2.0 -> 1.5"):
        generate(config(photo_source, temperature=1.5), tmp_path / "run", roles=scripted_roles)
    with pytest.raises(VisRLError, match="visrl filter"):
        generate(config(photo_source, box_win=0.9), tmp_path / "run", roles=scripted_roles)
    photo_source.write_text(photo_source.read_text().replace("thing 3", "thing X"))
    with pytest.raises(VisRLError, match=r"source\.fingerprint"):
        generate(config(photo_source), tmp_path / "run", roles=scripted_roles)
    assert file_bytes(run) == before


def test_a_folder_with_other_things_is_left_alone(photo_source, scripted_roles, tmp_path):
    for name in ("thesis.tex", "config.toml", "notes.tmp"):
        (folder := tmp_path / name).mkdir()
        (folder / name).write_text("seed = 3  # dear")
        with pytest.raises(VisRLError, match=f"not empty .it holds {name}"):
            generate(config(photo_source), folder, roles=scripted_roles)
        assert [(f.name, f.read_text()) for f in folder.iterdir()] == [(name, "seed = 3  # dear")]


def test_a_run_killed_before_its_second_file_goes_on(photo_source, scripted_roles, tmp_path):
    options = config(photo_source)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.toml").write_text(to_toml(options))
    assert generate(options, tmp_path / "run", roles=scripted_roles).is_finished


@pytest.mark.parametrize("name", [".lock", "work", "report.json.tmp", "times.jsonl"])
def test_nothing_is_written_through_a_link(photo_source, scripted_roles, tmp_path, name):
    (target := tmp_path / "precious").mkdir()
    (target / "file").write_text("mine")
    run = generate(config(photo_source), tmp_path / "run", max_chunks=1, roles=scripted_roles)
    shutil.rmtree(run.path / name, ignore_errors=True)
    (run.path / name).unlink(missing_ok=True)
    (run.path / name).symlink_to(target if name == "work" else target / "file")
    with pytest.raises(VisRLError, match="is a symbolic link"):
        generate(config(photo_source), tmp_path / "run", roles=scripted_roles)
    with pytest.raises(VisRLError, match="is a symbolic link"):
        finalize.filter_run(run.path, {})
    assert [(f.name, f.read_text()) for f in target.iterdir()] == [("file", "mine")]


def test_a_second_process_is_refused(photo_source, scripted_roles, tmp_path):
    (tmp_path / "run").mkdir()
    with files.lock_folder(tmp_path / "run"), pytest.raises(VisRLError, match="Another process"):
        generate(config(photo_source), tmp_path / "run", roles=scripted_roles)


def test_bad_rows_are_dropped_with_a_reason_and_counts_add_up(photo_source, scripted_roles, tmp_path):
    with photo_source.open("a") as file:
        file.write(json.dumps({"id": "gone", "question": "q", "answers": ["a"], "image": "gone.png"}) + "\n")
        file.write("{not json\n")
    run = generate(config(photo_source), tmp_path / "run", roles=scripted_roles)
    reasons = [(d["id"], d["stage"], d["reason"]) for d in run.table("drops").to_pylist()]
    assert [r[1:] for r in reasons] == [("source", "image_missing"), ("source", "bad_json")]
    assert run.manifest()["counts"]["questions"] == 10


def test_replies_without_a_box_lose_the_attempt_and_say_why(photo_source, tmp_path):
    def script(request, seed):
        reply = scripted_reply(request, seed)
        return "I see nothing" if "3?" in request.parts[1].text and reply.startswith("[") else reply

    engine = ScriptedEngine(script)
    run = generate(config(photo_source), tmp_path / "run", roles=(Role(engine, True), Role(engine, False)))
    lost = [d for d in run.table("drops").to_pylist() if d["stage"] == "focus"]
    assert [(d["id"], d["reason"], d["attempt"]) for d in lost] == [("q3", "no_box", n) for n in range(3)]
    unpaired = {d["id"]: d["reason"] for d in (json_rows(run, "unpaired"))}
    assert unpaired["q3"] == "no_candidates"


def test_a_question_that_the_processor_refuses_is_dropped_alone(photo_source, tmp_path):
    class Picky(ScriptedEngine):
        def generate(self, requests):
            if any("thing 4?" in part.text for request in requests for part in request.parts):
                with raise_refusals(ValueError):
                    raise ValueError("absolute aspect ratio must be smaller than 200\nmore")
            return super().generate(requests)

    engine = Picky(scripted_reply)
    run = generate(config(photo_source), tmp_path / "run", roles=(Role(engine, True), Role(engine, False)))
    drops = run.table("drops").to_pylist()
    assert [(d["id"], d["reason"], d["detail"]) for d in drops] == [
        ("q4", "model_refused", "absolute aspect ratio must be smaller than 200")
    ]
    assert run.manifest()["counts"]["candidates"] == 54


def test_a_defect_of_the_program_ends_the_run_and_is_no_drop(photo_source, scripted_roles, tmp_path, monkeypatch):
    def broken(*_):
        raise ValueError("a mistake in the crop rule")

    monkeypatch.setattr("visrl_data.pipeline.actor.crop_pixels", broken)
    with pytest.raises(ValueError, match="a mistake in the crop rule"):
        generate(config(photo_source), tmp_path / "run", roles=scripted_roles)


def test_unparsed_verdicts_never_pair(photo_source, tmp_path):
    def script(request, seed):
        return "good!" if request.parts[0].kind == "crop" else scripted_reply(request, seed)

    engine = ScriptedEngine(script)
    run = generate(config(photo_source), tmp_path / "run", roles=(Role(engine, True), Role(engine, False)))
    assert run.manifest()["counts"]["pairs"] == 0
    assert {c["box_score_state"] for c in run.table("candidates").to_pylist()} == {"unparsed:no_json"}
    assert {d["reason"] for d in json_rows(run, "unpaired")} == {"all_unparsed"}


def test_without_diversity_boxes_are_the_actors_own(photo_source, scripted_roles, tmp_path):
    run = generate(config(photo_source, diversity="off"), tmp_path / "run", roles=scripted_roles)
    assert {c["box_origin"] for c in run.table("candidates").to_pylist()} == {"actor"}


def test_filter_needs_no_model_and_can_go_back(photo_source, scripted_roles, tmp_path):
    run = generate(config(photo_source), tmp_path / "run", roles=scripted_roles)
    first = file_bytes(run)
    before, after = finalize.filter_run(run.path, {"box_win": 1.0})
    assert after["pairs"] <= before["pairs"]
    assert run.manifest()["filter"]["box_win"] == 1.0
    finalize.filter_run(run.path, {"box_win": 0.8})
    assert file_bytes(run) == first


def test_sweep_agrees_with_filter(photo_source, scripted_roles, tmp_path):
    run = generate(config(photo_source), tmp_path / "run", roles=scripted_roles)
    for row in finalize.sweep_run(run.path).to_pylist():
        given = {name: row[name] for name in ("box_win", "box_lose", "response_win", "response_lose")}
        assert finalize.filter_run(run.path, given)[1]["pairs"] == row["pairs"]


@pytest.mark.parametrize(("options", "score", "wins"), [({}, 0.75, False), ({"score_step": 0.1}, 0.8, True)])
def test_scores_reach_the_thresholds_as_the_critic_wrote_them(photo_source, tmp_path, options, score, wins):
    """0.75 is below 0.8 and 0.25 above 0.2, unless a step rounds them; the reply keeps the score in any case."""

    def script(request, seed):
        if request.parts[0].kind != "crop":
            return scripted_reply(request, seed)
        return '{"score": 0.75}' if scripted_reply(request, seed) > '{"score": 0.5}' else '{"score": 0.0}'

    engine = ScriptedEngine(script)
    rule = {"response_critic": "normalized", "attempts": 8} | options
    run = generate(config(photo_source, **rule), tmp_path / "run", roles=(Role(engine, True), Role(engine, False)))
    written = {(c["box_score"], c["box_score_raw"]) for c in run.table("candidates").to_pylist()}
    assert written == {(score, '{"score": 0.75}'), (0.0, '{"score": 0.0}')}
    assert (run.report()["yields"]["all"]["in_win"] > 0) == wins


def json_rows(run, name):
    import pyarrow.parquet as pq

    return pq.read_table(run.path / f"{name}.parquet").to_pylist()
