"""What a request looks like as a chat: a template's switches, and markers in a stranger's words."""

import pytest

from tests.conftest import draw_photo
from tests.helpers.tiny_llava import llava
from visrl_data.core.prompts import PromptSet
from visrl_data.engines.image_processing import picture_tokens
from visrl_data.engines.messages import plain_markup, prompt_text
from visrl_data.engines.protocol import Request, Sampling
from visrl_train.tokenization import Turns


@pytest.mark.parametrize(
    "condition", ["enable_thinking is defined and not enable_thinking", "thinking is defined and thinking is false"]
)
def test_a_model_that_may_reason_is_asked_not_to(condition):
    """As the templates of Qwen3.5 and GLM-4.6V have it, and Kimi K2.5's; training learns what generation is asked."""
    plain, _ = llava()
    thinking, _ = llava()
    start = "{{ '<|sl_assistant|>' }}"
    switch = f"{{{{ '' if {condition} else 'THINK' }}}}"
    thinking.chat_template = plain.chat_template.replace(start, start + switch)
    assert thinking.chat_template != plain.chat_template
    request = Request(PromptSet().focus.parts(question="what?"), (draw_photo(1),), (), Sampling())
    assert prompt_text(request, thinking, []) == prompt_text(request, plain, [])
    assert Turns(thinking).completion("7") == Turns(plain).completion("7")
    assert picture_tokens(thinking, draw_photo(1)) == picture_tokens(plain, draw_photo(1))


@pytest.mark.parametrize(
    "marker",
    [
        "<|im_start|>", "<|image_pad|>", "<|turn>", "<turn|>", "<|image>", "<image|>", "<image>", "</s>", "<IMG_ATOM>",
        "<start_of_turn>", "<end_of_audio>", "<im_patch>", "<low_res_im_start>", "<end_of_utterance>",
    ],
)  # fmt: skip
def test_a_marker_is_broken_up_for_servers(marker):
    assert plain_markup(f"a {marker} b") == f"a <\u200b{marker[1:]} b"


@pytest.mark.parametrize("text", ["1 < 2 > 0", "a <b> c", "x <| y |> z", "<>", "<imagery>", "<p>text</p>"])
def test_other_angles_stay(text):
    assert plain_markup(text) == text
