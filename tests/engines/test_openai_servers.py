"""What the openai engine finds out of a server: which one it is, what it lists and ignores; on a loopback server."""

from __future__ import annotations

import json
import shutil
from types import SimpleNamespace

import pytest
from PIL import Image

from tests.conftest import draw_photo, scripted_reply
from tests.helpers.loopback_openai import Server
from visrl_data.core.boxes import make_frame
from visrl_data.core.config import GenConfig
from visrl_data.core.errors import UsageError, VisRLError
from visrl_data.core.prompts import SCORE_CHOICES, SCORE_PREFIX, PromptPart, PromptSet
from visrl_data.engines.chat_server import run
from visrl_data.engines.openai import OpenAIEngine
from visrl_data.engines.protocol import EngineLost, Request, Sampling
from visrl_data.engines.served_checks import compare_pictures
from visrl_data.engines.served_processor import load_served_processor
from visrl_data.executors import generation
from visrl_data.models.served import KEY, ServedModel, find_served_model
from visrl_data.pipeline.model_pair import find_actor, find_critic, load_model_pair
from visrl_data.spotlight import ACTOR, BASE

HOT = Sampling(temperature=1.5, top_p=0.9, top_k=40, max_new_tokens=8)
TRIAL_TOKENS = 40  # of Spotlight's prompt of a picture and a question mark


@pytest.fixture
def serve(request, monkeypatch):
    monkeypatch.delenv(KEY, raising=False)

    def start(*args, **options) -> Server:
        server = Server(*(args or (scripted_reply,)), **{"program": "vllm", **options})
        request.addfinalizer(server.close)
        return server

    return start


def config(server: Server, **more) -> GenConfig:
    return GenConfig(**{"model": "actor", "engine": "openai", "base_url": server.url, **more})


def engine_for(server: Server, model: str = "actor", **options) -> OpenAIEngine:
    return OpenAIEngine(find_served_model(model, server.url), HOT, **{"retries": 0, **options})


def question(text: str, **more) -> Request:
    return Request(PromptSet().focus.parts(question=text), (draw_photo(1),), (1,), HOT, **more)


def adapter_at(root: str) -> dict[str, dict[str, str]]:
    return {"actor": {"root": root, "parent": "critic"}}


# ---- names


def test_a_name_is_the_folder_that_the_server_lists_for_it(serve):
    server = serve(listings=adapter_at(str(ACTOR)))
    actor = find_actor(config(server))
    assert (actor.box_space, actor.origin_base) == ("unit", "spotlight-base")
    assert find_critic(config(server), actor).id == "critic", "the base of the adapter, where it is the original model"


def test_a_base_at_another_server_is_named_by_the_user(serve):
    server, other = serve(listings=adapter_at(str(ACTOR))), serve(models=("spotlight-base",))
    options = config(server, critic_base_url=other.url)
    assert find_critic(options, find_actor(options)).id == "spotlight-base"


def test_a_folder_that_is_not_here_does_not_silently_mean_unit_boxes(serve):
    server = serve(listings=adapter_at("/elsewhere/rl1"))
    with pytest.raises(UsageError, match=r"its server names /elsewhere/rl1, which is not here.*--box-space unit"):
        load_model_pair(config(server, critic="critic"))
    pair = load_model_pair(config(server, critic="critic", box_space="per_mille"))
    assert pair.box_space == "per_mille"


def test_a_mistyped_name_is_told_with_those_there_are(serve):
    with pytest.raises(EngineLost, match="no model actr. It serves: actor, critic"):
        find_actor(config(serve(), model="actr"))


def test_a_root_too_long_for_a_file_is_no_folder_here(serve):
    actor = find_actor(config(serve(listings=adapter_at("x" * 5000)), box_space="unit"))
    assert actor.folder is None


@pytest.mark.parametrize("content", ["[1]", "{}"])
def test_a_folder_whose_processor_can_t_be_loaded_has_none(tmp_path, content):
    folder = shutil.copytree(BASE, tmp_path / "model")
    (folder / "processor_config.json").write_text(content)
    processor, settings, problem = load_served_processor(find_served_model(str(folder), "http://127.0.0.1:9/v1"), False)
    assert (processor, settings) == (None, None) and problem


# ---- grammars


def test_a_constrained_run_sends_its_grammars(serve, photo_source, tmp_path):
    server = serve()
    options = config(server, critic="critic", box_space="unit", constrain=True, source=str(photo_source), limit=1)
    generation.generate(options, tmp_path / "run")
    grammars = {asked.body["structured_outputs"]["grammar"] for asked in server.log if "grammar" in str(asked.body)}
    assert {grammar.partition("\n")[0] for grammar in grammars} == {"%llguidance {}"}
    boxes = make_frame("unit", (64, 64)).grammar
    assert any(grammar.endswith(boxes) for grammar in grammars) and any("score" in grammar for grammar in grammars)


@pytest.mark.parametrize(
    ("options", "fault", "message"),
    [
        ({"obeys_grammars": False}, None, "ignores a grammar"),
        ({}, "400", r"refuses a grammar \(400: this picture"),
        ({}, "500", r"can't read a grammar \(.*500"),
    ],
)
def test_a_grammar_without_effect_ends_the_run_at_its_start(serve, options, fault, message):
    server = serve(scripted_reply, lambda asked: fault if "structured_outputs" in asked.body else None, **options)
    with pytest.raises(VisRLError, match=f"--constrain: .*{message}.*Start vLLM with --structured-outputs-config"):
        engine_for(server, constrain=True)


def test_special_tokens_in_a_grammar_need_the_model_s_folder(serve):
    engine = engine_for(serve(), constrain=True)
    with pytest.raises(VisRLError, match="may hold special tokens, and its folder is not on this machine"):
        engine.generate([question("a", grammar='start: "<|box_start|>" /[0-9]+/')])


# ---- scores


def test_expected_scores_are_read_from_the_tokens_where_scores_part(serve):
    def weigh(request: Request, begun: str, token: str) -> float:
        """0.8 twice as likely as 0.3, which is as likely as 1.0; all others a hundredth of that."""
        if begun == SCORE_PREFIX:
            return {"0": 0.6, "1": 0.2}[token]
        assert begun == SCORE_PREFIX + "0."
        return {"8": 0.5, "3": 0.25}.get(token, 0.0025)

    server = serve(weigh=weigh)
    engine = engine_for(server, expected_scores=True)
    [[reply]] = engine.generate([question("how close?", prefix=SCORE_PREFIX, choices=SCORE_CHOICES)])
    probs = dict(zip(SCORE_CHOICES, reply.choice_probs, strict=True))
    mass = 0.2 + 0.6 * (0.75 + 8 * 0.0025)
    assert reply.choice_mass == pytest.approx(mass)
    assert [probs[c] for c in ("0.8", "0.3", "1.0", "0.0")] == pytest.approx(
        [0.3 / mass, 0.15 / mass, 0.2 / mass, 0.0015 / mass]
    )
    begun = sorted(asked.body["messages"][-1]["content"] for asked in server.log)  # two at a time, in any order
    assert begun == sorted([SCORE_PREFIX, SCORE_PREFIX + "0."])


def test_expected_scores_are_kept_as_other_replies_are(serve, tmp_path):
    from visrl_data.engines.reply_cache import NAME, attach

    server, requests = serve(), [question("how close?", prefix=SCORE_PREFIX, choices=SCORE_CHOICES)]
    replies = []
    for _ in range(2):
        engine = engine_for(server, expected_scores=True)
        attach([engine], tmp_path / NAME)
        replies.append(engine.generate(requests))
    assert replies[0] == replies[1] and not server.repeats()


def test_a_template_that_changes_the_beginning_of_a_reply_is_noticed(serve):
    def length(request: Request) -> int:
        return 11 - (request.parts[-1].kind == "reply" and len(request.parts[-1].text) > 0)

    with pytest.raises(VisRLError, match="--score-mode expected: .*changes the beginning of a reply"):
        engine_for(serve(length=length), expected_scores=True)


# ---- pictures and texts


def test_a_picture_of_other_tokens_is_noticed(serve, caplog):
    same, other = serve(models=(str(BASE),), length=lambda _: TRIAL_TOKENS), serve(models=(str(BASE),))
    assert engine_for(same, str(BASE)).resized_size(Image.new("RGB", (200, 100)))
    assert not caplog.text
    engine = engine_for(other, str(BASE))
    assert "in a prompt of 11 tokens, where the model's own processor makes 40" in caplog.text
    with pytest.raises(VisRLError, match="without limits of the server's own"):
        engine.resized_size(Image.new("RGB", (200, 100)))


def test_a_server_that_crops_the_center_is_noticed_though_its_tokens_are_as_many():
    images = SimpleNamespace(do_center_crop=True, size={"shortest_edge": 336})
    comparison = compare_pictures(None, None, None, SimpleNamespace(image_processor=images), [])
    assert "the center of a picture alone" in run(comparison)


def test_a_picture_too_large_for_the_context_is_compared_in_small(serve):
    def too_large(asked) -> str | None:
        size = asked.body["messages"][0]["content"][0]["image_url"]["url"]
        return "400" if len(size) > 6000 else None

    server = serve(scripted_reply, too_large, models=(str(BASE),), length=lambda _: TRIAL_TOKENS)
    assert engine_for(server, str(BASE)).resized_size(Image.new("RGB", (200, 100)))


@pytest.mark.parametrize(
    ("model", "text", "sent"),
    [
        (str(BASE), "<|sl_image|> and <image>", "<\u200b|sl_image|> and <image>"),
        ("actor", "<|image_pad|> and <image>", "<\u200b|image_pad|> and <\u200bimage>"),
    ],
)
def test_special_tokens_of_a_text_are_broken_up(serve, model, text, sent):
    server = serve(models=(model,), length=lambda _: TRIAL_TOKENS)
    engine_for(server, model).generate([question(text)])
    assert sent in server.log[-1].text and (text not in server.log[-1].text)


def test_a_reply_of_an_earlier_turn_stays_a_turn(serve):
    """A second turn (Visual-CoT) is no beginning of a reply."""
    server = serve()
    parts = (PromptPart("image"), PromptPart("text", "a"), PromptPart("reply", "[1]"), PromptPart("text", "b"))
    engine = OpenAIEngine(ServedModel("actor", server.url, KEY), HOT)
    engine.generate([Request(parts, (draw_photo(1),), (1,), HOT)])
    body = server.log[-1].body
    assert [turn["role"] for turn in body["messages"]] == ["user", "assistant", "user"]
    assert "continue_final_message" not in json.dumps(body)
