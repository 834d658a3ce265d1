"""gen --max-attempts and --stop-early: attempts where they pay, as a function of each question's own replies."""

import json

import pyarrow.parquet as pq
import pytest

from tests.pipeline.test_factory import config, file_bytes
from visrl_data.core.attempts import AttemptPlan, plan_from
from visrl_data.core.errors import UsageError
from visrl_data.executors import generation


@pytest.fixture
def make_run(photo_source, scripted_roles, tmp_path):
    def make(name, max_chunks=None, **options):
        options = config(photo_source, **options)
        return generation.generate(options, tmp_path / name, max_chunks=max_chunks, roles=scripted_roles)

    return make


def candidates(run):
    """Candidates by question id."""
    rows = {}
    for row in run.table("candidates").to_pylist():
        rows.setdefault(row["question_id"], []).append(row)
    return rows


def pair_ids(run):
    return set(pq.read_table(run.path / "pairs.parquet")["question_id"].to_pylist())


def report(run):
    return json.loads((run.path / "report.json").read_text())


def test_the_blocks_of_a_plan():
    assert AttemptPlan(3, 3, False).blocks() == [range(3)]
    assert AttemptPlan(3, 7, False).blocks() == [range(3), range(3, 6), range(6, 7)]
    assert AttemptPlan(2, 3, True).blocks() == [range(1), range(1, 2), range(2, 3)]
    assert plan_from({"attempts": 2}) == AttemptPlan(2, 2, False), "a run of before"
    assert plan_from({"attempts": 2}).is_fixed and not plan_from({"attempts": 2, "stop_early": True}).is_fixed


def test_only_questions_without_a_pair_go_on(make_run):
    short, long = make_run("short", attempts=1), make_run("long", attempts=1, max_attempts=4)
    assert 0 < len(pair_ids(short)) < 10
    assert pair_ids(short) <= pair_ids(long), "a pair that was there stays"
    for name, rows in candidates(long).items():
        of_first = [row for row in rows if row["attempt"] == 0]
        assert of_first == candidates(short)[name], "the first block is that of a run that ends with it"
        assert (len(rows) == 2) == (name in pair_ids(short))
    assert max(row["attempt"] for rows in candidates(long).values() for row in rows) > 0


def test_a_question_that_goes_on_to_the_end_is_that_of_a_longer_run(make_run):
    long, whole = make_run("long", attempts=2, max_attempts=4), make_run("whole", attempts=4)
    ended = [name for name, rows in candidates(long).items() if rows[-1]["attempt"] == 3]
    assert ended
    for name in ended:
        assert candidates(long)[name] == candidates(whole)[name]


def test_stop_early_ends_with_the_first_pair(make_run):
    run = make_run("early", attempts=3, stop_early=True)
    fixed = {attempts: make_run(f"fixed-{attempts}", attempts=attempts) for attempts in (1, 2, 3)}
    for name, rows in candidates(run).items():
        attempts = rows[-1]["attempt"] + 1
        assert attempts == 3 or name in pair_ids(fixed[attempts])
        assert attempts == 1 or name not in pair_ids(fixed[attempts - 1]), "one attempt less gave no pair"
    assert run.rows("candidates") < fixed[3].rows("candidates")


@pytest.mark.parametrize("options", [{"attempts": 1, "max_attempts": 3}, {"attempts": 3, "stop_early": True}])
def test_a_row_does_not_depend_on_its_chunk_nor_on_a_resumption(make_run, options):
    whole = make_run("whole", **options)
    cut = make_run("cut", max_chunks=1, **options)
    assert not cut.is_finished
    assert file_bytes(make_run("cut", **options)) == file_bytes(whole)
    other = make_run("other", chunk_size=4, **options)
    assert candidates(other) == candidates(whole)


def test_the_report_counts_the_attempts_of_each_question(make_run):
    run = make_run("early", attempts=2, max_attempts=5, stop_early=True)
    per_question = report(run)["attempts_per_question"]
    assert sum(per_question.values()) == 10
    expected = sum(int(attempts) * questions for attempts, questions in per_question.items())
    assert report(run)["yields"]["all"]["attempts_expected"] == expected
    assert report(run)["settings"] | {"max_attempts": 5, "stop_early": True} == report(run)["settings"]
    assert "attempts_per_question" not in report(make_run("plain"))


def test_scope_question_keeps_clear_of_the_boxes_of_earlier_blocks(make_run):
    early = candidates(make_run("early", attempts=4, stop_early=True, diversity="question"))
    whole = candidates(make_run("whole", attempts=4, diversity="question"))
    assert {len(rows) for rows in early.values()} != {2}
    for name, rows in early.items():
        assert rows == whole[name][: len(rows)]


def test_fewer_attempts_at_most_than_at_first_are_refused(photo_source):
    with pytest.raises(UsageError, match=r"--max-attempts 2: expected at least --attempts, 3"):
        config(photo_source, max_attempts=2)
