"""What becomes of odd fields of a server's answer: numbers that are none, tokens that are no ids."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest

from visrl_data.engines.chat_server import _by_name
from visrl_data.engines.completions import parse_completion, read_logprobs
from visrl_data.engines.protocol import Reply

HUGE = 10**400  # JSON can spell it, and no float holds it


def completion(*tokens: dict[str, Any]) -> Any:
    """A completion with these tokens, each with its log-probability and perhaps those of others in its place."""
    logprobs = SimpleNamespace(content=[SimpleNamespace(**token) for token in tokens])
    choice = SimpleNamespace(message=SimpleNamespace(content="7"), finish_reason="stop", logprobs=logprobs)
    return SimpleNamespace(choices=[choice])


@pytest.mark.parametrize(
    "logprobs",
    [pytest.param((HUGE,), id="huge"), (math.inf, -math.inf), (1e308, 1e308), (math.nan,), ("x",), (None,)],
)
def test_a_log_likelihood_that_is_none_costs_no_reply(logprobs):
    reply = parse_completion(completion(*({"logprob": logprob} for logprob in logprobs)), None)
    assert isinstance(reply, Reply) and (reply.text, reply.logprob) == ("7", None)


@pytest.mark.parametrize(
    ("token", "logprob"),
    [
        *(("a", -1.0), (3, -1.0), ("token_id:3", math.nan), ("token_id:3", 1e9)),
        pytest.param("token_id:3", HUGE, id="huge"),
    ],
)
def test_probabilities_that_are_none_are_no_reply(token, logprob):
    tokens = [{"top_logprobs": [SimpleNamespace(token=token, logprob=logprob)]}]
    assert parse_completion(completion(*tokens), None, first_token=True) is None


def test_probabilities_are_read_by_token_id():
    rows = [SimpleNamespace(token=f"token_id:{i}", logprob=value) for i, value in enumerate((-0.5, 1e-7, -math.inf))]
    reply = parse_completion(completion({"top_logprobs": rows}), None, first_token=True)
    assert isinstance(reply, Reply) and read_logprobs(reply.text) == {0: -0.5, 1: 1e-7, 2: -math.inf}


def test_a_list_of_models_without_names_is_empty():
    assert _by_name({"data": [{"id": ["x"]}, {"id": 3}, {}, None, {"id": "actor"}]}) == {"actor": {"id": "actor"}}
