"""The answer-only baselines: what they see, what they minimise, where they start."""

import dataclasses
import json
import math
import shutil

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from tests.helpers.command import visrl
from tests.train.test_helpers import QUICK
from visrl_data.core import images
from visrl_data.core.errors import UsageError, VisRLError
from visrl_data.core.prompts import PromptSet
from visrl_data.engines.protocol import Request, Sampling
from visrl_data.engines.transformers import TransformersEngine
from visrl_data.evaluation.config import EvalConfig
from visrl_data.evaluation.eval_models import find_eval_models
from visrl_data.models.model_folder import find_model
from visrl_data.spotlight import ACTOR
from visrl_train import answer_baselines, rl2, rloo, stage_folder
from visrl_train.config import (
    DpoAnswersConfig,
    KtoAnswersConfig,
    Rl2Config,
    RlooAnswersConfig,
    SftAnswersConfig,
)
from visrl_train.metrics_log import read_metrics
from visrl_train.pairs import read_pairs
from visrl_train.tokenization import Turns

pytest_plugins = ["tests.train.test_helpers"]


@pytest.fixture(scope="module")
def processor(untrained):
    return AutoProcessor.from_pretrained(untrained)


@pytest.fixture(scope="module")
def pairs(scripted_run):
    return read_pairs(str(scripted_run))


@pytest.fixture(scope="module")
def write(processor, pairs):
    return answer_baselines.AnswerEncoder(Turns(processor), pairs.read_image)


def rows(items):
    return [dataclasses.asdict(item) for item in items]


def learnt(processor, batch, prefix=""):
    ids, masks = batch[f"{prefix}input_ids"], batch[f"{prefix}completion_mask"]
    return [processor.tokenizer.decode(row[mask.bool()]) for row, mask in zip(ids, masks, strict=True)]


def test_the_model_sees_the_image_and_the_question_and_no_crop(untrained, write, pairs):
    pair = pairs.pairs[0]
    batch = answer_baselines.dpo_batch(rows([pair]), write)
    picture = images.decode(pairs.read_image(pair.image))
    parts = answer_baselines.DIRECT_PROMPT.parts(question=pair.question)
    assert [part.kind for part in parts] == ["image", "text"] and "box" not in parts[1].text
    asked = TransformersEngine(find_model(str(untrained)))._encode([Request(parts, (picture,), (0,), Sampling())])
    length = asked["input_ids"].shape[1]
    assert batch["input_ids"][:, :length].tolist() == asked["input_ids"].tolist() * 2
    assert torch.equal(batch["pixel_values"], asked["pixel_values"].repeat(2, 1, 1, 1))


def test_rows_of_each_baseline(processor, write, pairs):
    """SFT: all wins. DPO: wins, then loses. KTO: each response, beside the response of the row before it."""
    same = dataclasses.replace(pairs.pairs[2], lose_response=pairs.pairs[2].win_response, has_response=False)
    some = dataclasses.replace(pairs, pairs=(*pairs.pairs[:2], same))
    wins, loses = ([f"{getattr(p, f'{side}_response')}<|sl_end|>" for p in some.pairs] for side in ("win", "lose"))
    assert (
        learnt(
            processor,
            write(
                rows(answer_baselines.chosen_answers(some)), [a.reply for a in answer_baselines.chosen_answers(some)]
            ),
        )
        == wins
    )
    assert (
        learnt(processor, answer_baselines.dpo_batch(rows(answer_baselines.pairs_with_responses(some)), write))
        == wins[:2] + loses[:2]
    )
    made = answer_baselines.all_answers(some)
    assert [a.label for a in made] == [True, False] * 2
    batch = answer_baselines.kto_batch(rows(made), write)
    mixed = [wins[0], loses[0], wins[1], loses[1]]
    assert learnt(processor, batch) == mixed and learnt(processor, batch, "KL_") == [mixed[-1], *mixed[:-1]]
    start = (batch["completion_mask"].argmax(dim=1)).tolist()
    for i, (own, other) in enumerate(zip(batch["input_ids"], batch["KL_input_ids"], strict=True)):
        assert torch.equal(own[: start[i]], other[: start[i]]), "the prompt is the row's own"
    assert len(batch["pixel_values"]) == 4 and batch["label"].tolist() == [True, False] * 2
    with pytest.raises(VisRLError, match="no answer is preferred"):
        answer_baselines.pairs_with_responses(dataclasses.replace(pairs, pairs=(same,)))


def log_probs(model, batch, prefix=""):
    """log pi of each reply, from plain logits."""
    names = ("input_ids", "attention_mask")
    inputs = {name: batch[f"{prefix}{name}"] for name in names}
    with torch.no_grad():
        logits = model(**inputs, pixel_values=batch["pixel_values"]).logits.double().log_softmax(dim=-1)
    mask = batch[f"{prefix}completion_mask"][:, 1:]
    return (logits[:, :-1].gather(-1, inputs["input_ids"][:, 1:, None])[..., 0] * mask).sum(dim=1)


@pytest.mark.parametrize("kind", [DpoAnswersConfig, KtoAnswersConfig])
def test_losses_by_hand(kind, untrained, scripted_run, tmp_path, seen):
    """After a training, on one batch. h = log pi / pi_ref.

    DPO: mean of -log sigma(beta (h(win) - h(lose))).
    KTO: mean of 1 - sigma(+-beta (h - z)), z = the mean h of the mismatched rows, at least 0; + for wins.
    """
    config = kind(
        model=str(untrained), data=str(scripted_run), beta=0.5, **{**QUICK, "batch_size": 4, "learning_rate": 0.01}
    )
    answer_baselines.train(config, tmp_path / "m")
    trainer = seen.trainer
    first = {DpoAnswersConfig: math.log(2), KtoAnswersConfig: 0.5}[kind]
    assert seen.logs[0]["loss"] == pytest.approx(first, abs=1e-4)
    assert seen.after["trained"] != seen.before["trained"]
    assert (seen.after["rest"], seen.after["reference"]) == (seen.before["rest"], seen.before["reference"])
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(4)])
    model, changes = trainer.model.eval(), []
    for prefix in ("", "KL_") if kind is KtoAnswersConfig else ("",):
        values = []
        for adapter in ("default", "ref"):
            model.set_adapter(adapter)
            values.append(log_probs(model, batch, prefix))
        model.set_adapter("default")
        changes.append(values[0] - values[1])
    if kind is DpoAnswersConfig:
        win, lose = changes[0].chunk(2)
        by_hand = -torch.nn.functional.logsigmoid(0.5 * (win - lose)).mean()
    else:
        sign = batch["label"].double() * 2 - 1
        by_hand = (1 - torch.sigmoid(sign * 0.5 * (changes[0] - changes[1].mean().clamp(min=0)))).mean()
    assert abs(by_hand - first) > 1e-2, "the policy must have moved"
    with torch.no_grad():
        assert trainer.compute_loss(model, batch).item() == pytest.approx(by_hand.item(), abs=1e-4)


def test_sft_learns_the_wins_from_the_original_model(untrained, sft_model, scripted_run, tmp_path, seen, monkeypatch):
    pairs = dataclasses.replace(read_pairs(str(scripted_run)), origin=str(untrained))
    monkeypatch.setattr(answer_baselines, "read_pairs", lambda _: pairs)
    folder = answer_baselines.train(SftAnswersConfig(**{**QUICK, "epochs": 3}), tmp_path / "m")
    record = json.loads((folder / "visrl.json").read_text())
    assert record["steps"] == 1
    base = find_model(str(untrained))
    assert record["trained_from"] == record["origin_base"] == {"id": str(untrained), "digest": base.digest}
    assert list(record["prompts"].values()) == [answer_baselines.DIRECT_PROMPT.template]
    losses = [r["loss"] for r in seen.logs if "loss" in r]
    assert losses[-1] < losses[0]
    assert "visrl train sft-answers --config" in (folder / "README.md").read_text()
    with pytest.raises(VisRLError, match="names no original model"):
        answer_baselines.find_original(dataclasses.replace(pairs, origin=None))


def test_the_halves_share_no_image(pairs):
    twins = [dataclasses.replace(pair, id=f"{pair.id} again") for pair in pairs.pairs]
    first, second = rloo.halves([*pairs.pairs, *twins])
    assert len(first) + len(second) == 2 * len(pairs.pairs)
    assert not {pair.image for pair in first} & {pair.image for pair in second}
    with pytest.raises(VisRLError, match="too few images"):
        rloo.halves(pairs.pairs[:1])


def test_the_prompt_that_trl_samples_from_is_ours(processor, write, pairs):
    from trl.data_utils import prepare_multimodal_messages

    odd = dataclasses.replace(pairs.pairs[0], question="what is {this} <|sl_image|>?")
    row = rloo.prompt_dataset(rows([odd]), write)[0]
    chat = prepare_multimodal_messages(row["prompt"], images=row["images"])
    made = processor.apply_chat_template([chat], add_generation_prompt=True, tokenize=True, return_dict=True)
    batch = write(rows([odd]), ["7"])
    ours = batch["input_ids"][0][: int(batch["completion_mask"][0].argmax())]
    assert list(made["input_ids"][0]) == ours.tolist()


def test_rewards(untrained, write, pairs):
    """Exact match; and a model's score, which is the same alone and in a batch with a longer row."""
    said = [[{"role": "assistant", "content": text}] for text in (" Seven.", "8")]
    assert rloo.metric_reward("normalized")(said, answers=[["7", "seven"], ["7"]]) == [1.0, 0.0]
    torch.manual_seed(0)
    judge = rloo.RewardModel(AutoModelForImageTextToText.from_pretrained(untrained).eval())
    torch.nn.init.normal_(judge.head.weight)
    score = rloo.model_reward(judge, write)
    some = pairs.pairs[:2]
    columns = {name: [getattr(pair, name) for pair in some] for name in ("id", "question", "image")}
    longer = [said[0], [{"role": "assistant", "content": "a much longer answer than the other"}]]
    together = score(longer, **columns)
    alone = [score(longer[i : i + 1], **{n: v[i : i + 1] for n, v in columns.items()})[0] for i in range(2)]
    assert together == pytest.approx(alone, abs=1e-4) and abs(together[0] - together[1]) > 1e-3


def test_the_reward_model_learns_which_response_won(untrained, scripted_run, tmp_path):
    """Twelve passes over four pairs: the win scores higher in each; the base stays as it was."""
    config = RlooAnswersConfig(
        model=str(untrained), data=str(scripted_run), reward_epochs=12, reward_learning_rate=3e-3,
        **{**QUICK, "batch_size": 4},
    )  # fmt: skip
    pairs = read_pairs(str(scripted_run))
    work = answer_baselines.prepare_from_original("rloo-answers", config, pairs, tmp_path / "m")
    work.work.mkdir(parents=True)
    write = answer_baselines.AnswerEncoder(Turns(stage_folder.load_processor(work)), pairs.read_image)
    some = [dataclasses.replace(p, win_response="yes", lose_response="no") for p in pairs.pairs[:4]]
    judge = rloo.train_reward(work, config, write, some)
    score = rloo.model_reward(judge, write)
    columns = {name: [getattr(pair, name) for pair in some] for name in ("id", "question", "image")}
    win, lose = (score([[{"content": word}]] * 4, **columns) for word in ("yes", "no"))
    assert all(w > v for w, v in zip(win, lose, strict=True))
    kept = rloo.train_reward(work, config, write, some)  # from the work folder
    assert score([[{"content": "yes"}]] * 4, **columns) == rloo.model_reward(kept, write)(
        [[{"content": "yes"}]] * 4, **columns
    )
    losses = [r["loss"] for r in read_metrics(work.output / "reward.jsonl") if "loss" in r]
    assert len(losses) == 12 and losses[0] == pytest.approx(math.log(2), abs=1e-4) and losses[-1] < 0.5


@pytest.mark.parametrize("reward", ["model", "exact"])
def test_rloo_trains_the_policy_on_the_second_half(reward, untrained, scripted_run, tmp_path, seen, monkeypatch):
    if reward == "exact":  # a reward that differs between replies, which an untrained model never earns
        lengths = lambda completions, **_: [float(len(c[0]["content"])) for c in completions]  # noqa: E731
        monkeypatch.setattr(rloo, "metric_reward", lambda name: lengths)
    config = RlooAnswersConfig(
        model=str(untrained), data=str(scripted_run), reward=reward, reward_epochs=2, max_new_tokens=4,
        replies=2, **{**QUICK, "batch_size": 2},
    )  # fmt: skip
    folder = rloo.train(config, tmp_path / "m")
    assert seen.after["trained"] != seen.before["trained"] and seen.after["rest"] == seen.before["rest"]
    record = json.loads((folder / "visrl.json").read_text())
    total = len([pair for pair in read_pairs(str(scripted_run)).pairs if pair.has_response])
    assert record["data"]["reward_pairs"] + record["data"]["train"] == total
    assert "reward" in read_metrics(folder / "metrics.jsonl")[0]
    assert (folder / "reward.jsonl").is_file() == (reward == "model")
    assert not (folder / "work").exists()


def test_fewer_questions_than_a_step_takes_are_said_before_anything_trains(untrained, scripted_run, tmp_path):
    config = RlooAnswersConfig(model=str(untrained), data=str(scripted_run), **{**QUICK, "batch_size": 32})
    with pytest.raises(VisRLError, match=r"\d questions to train on, and a step takes 32: --batch-size x"):
        rloo.train(config, tmp_path / "m")
    assert not (tmp_path / "m" / "reward.jsonl").exists()


def test_full_weights_are_learnt_from_full_weights(untrained, sft_model, scripted_run, tmp_path, seen):
    config = KtoAnswersConfig(model=str(untrained), data=str(scripted_run), full=True, **QUICK)
    answer_baselines.train(config, tmp_path / "kto")
    assert seen.logs[0]["loss"] == pytest.approx(0.5, abs=1e-4)
    with pytest.raises(VisRLError, match="visrl merge"):
        rloo.train(RlooAnswersConfig(model=str(sft_model), data=str(scripted_run), full=True), tmp_path / "rloo")


def test_rl2_can_leave_rl1_out(sft_model, scripted_run, tmp_path, monkeypatch):
    """The actor is taken, and the folder's own config starts the same training again."""
    actor = find_model(str(sft_model))
    pairs = dataclasses.replace(read_pairs(str(scripted_run)), actor=str(sft_model), actor_digest=actor.digest)
    monkeypatch.setattr(rl2, "read_pairs", lambda _: pairs)
    monkeypatch.chdir(tmp_path)
    folder = rl2.train(Rl2Config(without_rl1=True, **QUICK))
    assert json.loads((folder / "visrl.json").read_text())["trained_from"]["digest"] == actor.digest
    assert rl2.train(Rl2Config(model=str(sft_model), data=pairs.name, **QUICK)) == folder
    with pytest.raises(UsageError, match="expected one of them"):
        rl2.train(Rl2Config(model=str(sft_model), without_rl1=True))
    with pytest.raises(VisRLError, match="No rl1 model"):
        rl2.train(Rl2Config())


def test_the_commands(untrained, scripted_run, tmp_path):
    for name, options in (("sft-answers", []), ("kto-answers", ["--beta=0.2"])):
        quick = [f"--{key.replace('_', '-')}={value}" for key, value in {**QUICK, "batch_size": 64}.items()]
        code, out, err = visrl(
            "train",
            name,
            "--model",
            untrained,
            "--data",
            scripted_run,
            "-o",
            tmp_path / name,
            *quick,
            *options,
            "--json",
        )
        assert code == 0, err
        assert json.loads(out)["stage"] == name
    code, _, err = visrl("train", "kto-answers", "--batch-size", "1", "--data", scripted_run)
    assert code == 2 and "--batch-size 1: expected at least 2" in err


def test_a_model_that_learnt_to_answer_at_once_is_asked_at_once(tmp_path):
    """Its record says so; the same adapter without that word is asked for a box first."""
    for name, more in (("at-once", {"steps": 1}), ("in-two", {})):
        shutil.copytree(ACTOR, tmp_path / name)
        record = tmp_path / name / "visrl.json"
        record.write_text(json.dumps(json.loads(record.read_text()) | more))
    models = [str(tmp_path / name) for name in ("at-once", "in-two")]
    eval_models = find_eval_models(models, EvalConfig(baseline=False), PromptSet())
    assert [model.mode.steps for model in eval_models] == [1, 2]
