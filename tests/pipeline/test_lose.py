"""--lose: which of a question's equally bad candidates is the lose, from their origins and likelihoods."""

import json
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.conftest import scripted_reply
from tests.pipeline.test_factory import config, file_bytes
from tests.pipeline.test_pairing import DEFAULT, LOSE, WIN, tables
from visrl_data.core import files
from visrl_data.core.config import LOSES, GenConfig
from visrl_data.core.errors import UsageError, VisRLError
from visrl_data.core.pair_rule import JointExtremes, rule_from, rule_settings
from visrl_data.core.seeds import keyed_seed
from visrl_data.engines.protocol import Role
from visrl_data.engines.scripted import ScriptedEngine
from visrl_data.executors import generation
from visrl_data.pipeline import finalize
from visrl_data.pipeline.pairing import select_pairs, sweep

ACTOR, CONTROLLER = ("actor", -10.0), ("controller", None)


def pool_of(pool, origins):
    """The tables of test_pairing, with (box_origin, box_logprob) of each candidate in turn."""
    questions, candidates = tables(pool)
    columns = zip(*(one for name in pool for one in origins[name]), strict=True)
    for name, values in zip(("box_origin", "box_logprob"), columns, strict=True):
        field = candidates.schema.field(name)
        candidates = candidates.set_column(candidates.column_names.index(name), field, pa.array(values, field.type))
    return questions, candidates


def lose_of(lose, *members, seed=0):
    """The lose and how many entered its draw, of a question with one win (row 0) and these (origin, log-prob, ...)."""
    scores = [WIN, *((one[2] if len(one) > 2 else LOSE) for one in members)]
    questions, candidates = pool_of({"q": scores}, {"q": [ACTOR, *(one[:2] for one in members)]})
    selection = select_pairs(candidates, questions, JointExtremes(DEFAULT, True, lose), seed)
    return selection.lose_rows.tolist(), selection.lose_ties.tolist()


def drawn(lose, *members):
    """The loses of 40 seeds, and the numbers that entered the draws."""
    results = [lose_of(lose, *members, seed=seed) for seed in range(40)]
    return {row for rows, _ in results for row in rows}, {n for _, ties in results for n in ties}


def test_uniform_draws_among_all():
    assert drawn("uniform", CONTROLLER, ACTOR, CONTROLLER, ("actor", -1.0)) == ({1, 2, 3, 4}, {4})
    assert JointExtremes(DEFAULT, True) == JointExtremes(DEFAULT, True, "uniform"), "the default"


def test_actor_first_draws_among_the_actor_s_where_it_has_some():
    assert drawn("actor-first", CONTROLLER, ACTOR, CONTROLLER, ("actor", -1.0)) == ({2, 4}, {2})
    assert drawn("actor-first", CONTROLLER, CONTROLLER) == ({1, 2}, {2})
    assert drawn("actor-first", ("actor", None), CONTROLLER) == ({1}, {1}), "no likelihood is needed"


def test_hardest_takes_the_likeliest_of_the_actor_s():
    assert lose_of("hardest", ("actor", -12.0), ("actor", -3.5), ("actor", -7.0), CONTROLLER) == ([2], [1])
    assert drawn("hardest", ("actor", -3.5), ("actor", -3.5), ("actor", -4.0)) == ({1, 2}, {2})


def test_hardest_ranks_a_box_of_the_controller_last():
    """It was not sampled, so a number beside it would say nothing; an actor's box without one comes before it."""
    assert lose_of("hardest", ("controller", -0.1), ("actor", -300.0)) == ([2], [1])
    assert lose_of("hardest", CONTROLLER, ("actor", None), ("actor", -300.0)) == ([3], [1])
    assert drawn("hardest", CONTROLLER, ("actor", None), ("actor", None)) == ({2, 3}, {2})
    assert drawn("hardest", CONTROLLER, CONTROLLER) == ({1, 2}, {2})


@pytest.mark.parametrize("lose", LOSES)
def test_only_ties_are_broken(lose):
    """The worst by both scores stays the lose, whoever drew it and however unlikely it is."""
    better = (0.1, 0.1)
    assert lose_of(lose, ("actor", -0.1, better), CONTROLLER, ("actor", -0.2, better)) == ([2], [1])


@pytest.mark.parametrize("lose", LOSES)
def test_the_lose_has_another_box_than_the_win(lose):
    """The actor's likeliest lose has the win's box (cell 7): the next one is taken, and the question is kept."""
    questions, candidates = pool_of(
        {"q": [(*WIN, 7), (*LOSE, 7), (*LOSE, 8)]}, {"q": [ACTOR, ("actor", -0.1), CONTROLLER]}
    )
    selection = select_pairs(candidates, questions, JointExtremes(DEFAULT, True, lose), 0)
    assert (selection.lose_rows.tolist(), selection.lose_ties.tolist()) == ([2], [1])


def many(questions=60):
    """A pool of questions with one to three wins and three to five tied loses of any origin."""
    dice = np.random.default_rng(3)
    pool, origins = {}, {}
    for i in range(questions):
        scores = [WIN] * dice.integers(1, 4) + [LOSE] * dice.integers(3, 6)
        pool[f"q{i}"] = scores
        origins[f"q{i}"] = [
            ("actor", float(-dice.integers(1, 4))) if dice.random() < 0.5 else CONTROLLER for _ in scores
        ]
    return pool_of(pool, origins)


def ids_of(candidates, selection):
    rows = [candidates.take(some).select(["question_id", "index"]).to_pylist()
            for some in (selection.win_rows, selection.lose_rows)]  # fmt: skip
    return [[(row["question_id"], row["index"]) for row in side] for side in rows]


def test_questions_wins_and_counts_do_not_depend_on_it():
    questions, candidates = many()
    uniform, *others = (select_pairs(candidates, questions, JointExtremes(DEFAULT, True, lose), 5) for lose in LOSES)
    for other in others:
        assert other.win_rows.tolist() == uniform.win_rows.tolist()
        assert other.outcome.tolist() == uniform.outcome.tolist() and (other.counts == uniform.counts).all()
        assert other.lose_rows.tolist() != uniform.lose_rows.tolist()
        assert (other.lose_ties <= uniform.lose_ties).all()


@pytest.mark.parametrize("lose", LOSES)
def test_a_pair_depends_on_its_question_s_rows_alone(lose):
    """As shards and executors deal questions out, in any order."""
    questions, candidates = many()
    rule, dice = JointExtremes(DEFAULT, True, lose), np.random.default_rng(1)
    whole = dict(zip(*ids_of(candidates, select_pairs(candidates, questions, rule, 5)), strict=True))
    shuffled = candidates.take(dice.permutation(candidates.num_rows))
    apart = {}
    for half in (questions.slice(0, 25), questions.slice(25)):
        own = shuffled.filter(pa.array([name in set(half["id"].to_pylist())
                                        for name in shuffled["question_id"].to_pylist()]))  # fmt: skip
        apart |= dict(zip(*ids_of(own, select_pairs(own, half, rule, 5)), strict=True))
    assert apart == whole


def test_uniform_is_the_draw_of_before():
    """floor(key * ties / 2**64) among the joint worst, in the order of their index."""
    questions, candidates = many()
    selection = select_pairs(candidates, questions, JointExtremes(DEFAULT, True), 5)
    rows = candidates.to_pylist()
    for name, lose in zip(questions["id"].to_pylist(), selection.lose_rows.tolist(), strict=True):
        tied = [i for i, row in enumerate(rows) if row["question_id"] == name and row["box_score"] == 0]
        assert lose == tied[keyed_seed(5, "pair", name, "lose") * len(tied) >> 64]


def test_a_sweep_counts_the_pairs_that_the_rule_gives():
    questions, candidates = many()
    table = sweep(candidates, questions, [JointExtremes(DEFAULT, True, lose) for lose in LOSES], 5)
    assert table["pairs"].to_pylist() == [60] * 3


def test_settings_of_older_runs_are_uniform_and_stay_as_they_were():
    old = {"box_win": 0.8, "box_lose": 0.2, "response_win": 0.8, "response_lose": 0.2, "box_critic": True}
    assert rule_settings(rule_from(old)) == old
    assert rule_from(old | {"lose": None}) == rule_from(old)
    for lose in LOSES[1:]:
        assert rule_settings(rule_from(old | {"lose": lose})) == old | {"lose": lose}
    with pytest.raises(ValueError, match="expected one of uniform, actor-first, hardest"):
        rule_from(old | {"lose": "worst"})
    with pytest.raises(UsageError, match="--lose worst"):
        GenConfig(lose="worst")


def likelihood(text):
    """A number that tells the boxes of the scripted actor apart."""
    return -float(sum(text.encode()) % 97) - 1


def blunt_reply(request, seed):
    """The model made of dice, whose critic says 0 or 1: most candidates of a question are tied."""
    text = scripted_reply(request, seed)
    return json.dumps({"score": round(json.loads(text)["score"])}) if "score" in text else text


@pytest.fixture
def roles():
    engine = ScriptedEngine(blunt_reply, likelihood)
    return Role(engine, True), Role(engine, False)


def pairs(run):
    return pq.read_table(run.path / "pairs.parquet").to_pylist()


def test_gen_keeps_the_likelihood_of_each_box_that_the_actor_wrote(photo_source, roles, tmp_path):
    run = generation.generate(config(photo_source), tmp_path / "run", roles=roles)
    for row in run.table("candidates").to_pylist():
        expected = likelihood(row["focus_reply"]) if row["box_origin"] == "actor" else None
        assert row["box_logprob"] == expected
    assert {row["box_origin"] for row in run.table("candidates").to_pylist()} == {"actor", "controller"}


@pytest.mark.parametrize("lose", LOSES)
def test_filter_gives_the_pairs_of_gen_and_goes_back(photo_source, roles, tmp_path, lose):
    made = generation.generate(config(photo_source, lose=lose), tmp_path / "made", roles=roles)
    run = generation.generate(config(photo_source), tmp_path / "run", roles=roles)
    before = file_bytes(run)
    finalize.filter_run(run.path, {}, lose=lose)
    assert pairs(run) == pairs(made)
    assert run.manifest()["filter"] == made.manifest()["filter"]
    assert run.manifest()["filter"].get("lose", "uniform") == lose == run.report()["settings"].get("lose", "uniform")
    finalize.filter_run(run.path, {"box_win": 0.7})
    assert run.manifest()["filter"].get("lose", "uniform") == lose, "an option that is left out keeps its value"
    finalize.filter_run(run.path, {"box_win": 0.8}, lose="uniform")
    assert file_bytes(run) == before


def test_each_variant_chooses_as_it_says_in_a_run(photo_source, roles, tmp_path):
    run = generation.generate(config(photo_source), tmp_path / "run", roles=roles)
    rows = run.table("candidates").to_pylist()
    origins = {}
    for lose in LOSES:
        finalize.filter_run(run.path, {}, lose=lose)
        origins[lose] = Counter(pair["lose_box_origin"] for pair in pairs(run))
    assert origins["actor-first"] == origins["hardest"]
    assert origins["hardest"]["controller"] < origins["uniform"]["controller"]
    for pair in pairs(run):
        of_question = [row for row in rows if row["question_id"] == pair["question_id"]]
        worst = [row for row in of_question if (row["box_score"], row["response_score"]) == (0, 0)]
        tied = [row for row in worst if row["box_text"] != pair["win_box_text"]]
        [lose] = [row for row in tied if row["index"] == pair["lose_index"]]
        assert lose["box_logprob"] == max((row["box_logprob"] for row in tied if row["box_logprob"]), default=None)


@pytest.mark.parametrize("lose", LOSES[1:])
def test_a_run_that_was_cut_ends_with_the_same_bytes(photo_source, roles, tmp_path, lose):
    options = config(photo_source, lose=lose)
    whole = generation.generate(options, tmp_path / "whole", roles=roles)
    cut = generation.generate(options, tmp_path / "cut", max_chunks=1, roles=roles)
    assert not cut.is_finished
    assert file_bytes(generation.generate(options, cut.path, roles=roles)) == file_bytes(whole)
    with pytest.raises(VisRLError, match=f"lose: {lose} -> unset") as error:
        generation.generate(config(photo_source), whole.path, roles=roles)
    assert "--lose need no new run: visrl filter" in str(error.value)


def without_likelihood(file):
    table = pq.read_table(file)
    pq.write_table(table.drop(["box_logprob"]), file)
    return table


def test_a_run_that_an_earlier_version_left_unfinished_is_resumed(photo_source, roles, tmp_path):
    options = config(photo_source)
    whole = generation.generate(options, tmp_path / "whole", roles=roles)
    cut = generation.generate(options, tmp_path / "cut", max_chunks=2, roles=roles)
    for chunk in cut.path.glob("work/chunk-*"):
        without_likelihood(chunk / "candidates.parquet")
        digests = {file.name: files.file_digest(file) for file in sorted(chunk.glob("*.parquet"))}
        (chunk / "sha256.json").write_text(json.dumps(digests))
    run = generation.generate(options, cut.path, roles=roles)
    assert pairs(run) == pairs(whole)
    rows, expected = (one.table("candidates").to_pylist() for one in (run, whole))
    assert [row["box_logprob"] for row in rows[:36]] == [None] * 36, "chunks of 3 questions with 6 candidates"
    assert rows[36:] == expected[36:]
    finalize.filter_run(run.path, {}, lose="hardest")  # where there is none, actor-first
    assert run.manifest()["filter"]["lose"] == "hardest"


def test_an_engine_without_likelihoods_is_refused_before_anything_is_made(photo_source, scripted_roles, tmp_path):
    with pytest.raises(UsageError, match="--lose hardest needs the log-probabilities.*actor-first"):
        generation.generate(config(photo_source, lose="hardest"), tmp_path / "run", roles=scripted_roles)
    assert not (tmp_path / "run").exists()
    run = generation.generate(config(photo_source, lose="actor-first"), tmp_path / "run", roles=scripted_roles)
    assert {row["box_logprob"] for row in run.table("candidates").to_pylist()} == {None}
    with pytest.raises(UsageError, match=r"--lose hardest goes by .* has none.*--lose actor-first"):
        finalize.filter_run(run.path, {}, lose="hardest")
    assert run.manifest()["filter"]["lose"] == "actor-first", "nothing was changed"
