"""What failures mean, which are repeated, and that no token is shown. No Hub."""

import email.utils
import errno
import json
import threading
import time
from types import SimpleNamespace

import pytest
from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled, Response

from visrl_data.core import hub_access
from visrl_data.core.hub_access import HubFailure, attempt, diagnose, mask

SECRET = "hf_" + "aB3" * 11


def http_error(status, message="", headers=None):
    response = Response(status, headers=headers or {})
    response.request = SimpleNamespace(url="http://hub/x")
    return HfHubHTTPError(message, response=response, server_message=message)


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        (f"token {SECRET}!", "token hf_***!"),
        ("Authorization: Bearer abc.def-ghi", "Authorization: Bearer ***"),
        ("GET https://s3/x?X-Amz-Signature=abc&y=1 failed", "GET https://s3/x?*** failed"),
        ("hf_hub_download and hf auth login", "hf_hub_download and hf auth login"),
    ],
)
def test_what_is_secret_is_masked(text, masked):
    assert mask(text) == masked


def test_a_token_of_any_form_is_masked(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "oauth.without.prefix")
    assert "oauth" not in mask("the server said oauth.without.prefix")


def test_what_the_client_logs_is_masked(capsys):
    from huggingface_hub.utils import logging

    logger = logging.get_logger("huggingface_hub.test")
    with hub_access.careful_client():
        logger.warning("got %s", SECRET)
    assert SECRET not in capsys.readouterr().err


@pytest.mark.parametrize("status", [401, 402, 403, 404, 400, 413])
def test_a_refusal_is_not_repeated(status, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", SECRET)
    failure = diagnose(http_error(status, f"no, {SECRET}"))
    assert failure.status == status and not failure.transient and not failure.unsure
    assert str(status) in failure.reason and SECRET not in failure.reason and failure.hint


@pytest.mark.parametrize(
    ("status", "unsure"),
    [(408, True), (409, False), (412, False), (429, False), (500, True), (502, True), (503, False)],
)
def test_what_may_pass(status, unsure):
    failure = diagnose(http_error(status))
    assert failure.transient and failure.unsure == unsure


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, 0),
        ({"Retry-After": "7"}, 7),
        ({"RateLimit": '"api";r=0;t=55'}, 56),
        ({"RateLimit": '"api";r=3;t=55'}, 0),
        ({"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0),
    ],
)
def test_how_long_the_hub_asks_to_wait(headers, seconds):
    assert diagnose(http_error(429, headers=headers)).wait == seconds


def raised(outer, inner):
    try:
        try:
            raise inner
        except Exception as error:
            raise outer from error
    except Exception as error:
        return error


@pytest.mark.parametrize(
    ("error", "words", "passing"),
    [
        (raised(RuntimeError("Error while uploading 'x'"), http_error(503)), "(503", True),
        (raised(FileNotFoundError("no snapshot"), http_error(403)), "(403", False),
        (OSError(errno.ENOSPC, "No space left on device"), "disk of this machine is full", False),
        (raised(RuntimeError("x"), OSError(errno.EDQUOT, "Quota exceeded")), "Quota exceeded", False),
        (ConnectionError("HTTP status client error (401 Unauthorized), domain: x"), "(401", False),
        (LocalTokenNotFoundError("no token"), "no Hub token on this machine", False),
        (OfflineModeIsEnabled("offline"), "HF_HUB_OFFLINE is set", False),
        (ConnectionResetError("reset by peer"), "connection failed", True),
        (json.JSONDecodeError("Expecting value", "<html>", 0), "not one of the Hub's", True),
        (KeyError("url"), "not one of the Hub's", True),
        (TypeError("string indices must be integers"), "not one of the Hub's (TypeError", True),
        (raised(RuntimeError("x"), HubFailure("given up", "Wait.")), "given up", False),
        (OSError("Consistency check failed: file should be of size 9 but has size 4"), "did not arrive whole", True),
        (TimeoutError(), "connection failed (TimeoutError)", True),
        (RuntimeError("."), "RuntimeError", False),
        (ValueError("Invalid metadata in README.md.\n- license"), "Invalid metadata in README.md. - license", False),
    ],
)
def test_what_went_wrong_is_found_in_the_chain(error, words, passing, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", SECRET)
    failure = diagnose(error)
    assert words in failure.reason and failure.transient == passing


class Calls:
    """A step that fails as told, then succeeds; and its looks."""

    def __init__(self, *ends):
        self.ends, self.count = list(ends), 0

    def __call__(self):
        self.count += 1
        end = self.ends.pop(0)
        if isinstance(end, BaseException):
            raise end
        return end


@pytest.fixture
def waits(monkeypatch):
    found = []
    monkeypatch.setattr(time, "sleep", found.append)
    return found


def test_what_may_pass_is_repeated(waits):
    call = Calls(http_error(500), ConnectionResetError(), http_error(429, headers={"Retry-After": "30"}), "done")
    assert attempt("x", call) == "done"
    assert waits == [1.0, 2.0, 30.0]


def test_in_the_end_it_is_given_up(waits):
    with pytest.raises(HubFailure) as error:
        attempt("x", Calls(*[http_error(503)] * 9))
    assert waits == list(hub_access.DELAYS) and error.value.status == 503 and not error.value.unsure


def test_a_change_that_may_have_been_made_is_reported_whatever_came_after(waits):
    with pytest.raises(HubFailure) as error:
        attempt("x", Calls(ConnectionResetError(), http_error(403)), writes=True)
    assert error.value.unsure and error.value.status == 403
    with pytest.raises(HubFailure) as error:
        attempt("x", Calls(ConnectionResetError(), http_error(403)))
    assert not error.value.unsure, "reading changes nothing"


def test_a_wait_that_is_too_long_is_told(waits):
    with pytest.raises(HubFailure):
        attempt("x", Calls(http_error(429, headers={"Retry-After": "4000"})))
    assert waits == []


@pytest.mark.parametrize(
    ("headers", "wait", "hint"),
    [
        ({"Retry-After": "30"}, 30, "Wait some minutes"),
        ({"Retry-After": "3600"}, 3600, "Wait for 60 minutes"),
        ({"Retry-After": "999999"}, 999_999, "Wait for 278 hours"),
        ({"Retry-After": "9" * 15}, 10**15 - 1, "Wait for"),
        ({"Retry-After": "Thu, 01 Jan 1970 00:00:00 GMT"}, 0, "Wait some minutes"),
        ({"Retry-After": "\u00b2"}, 0, "Wait some minutes"),
        ({"Retry-After": "9" * 400}, 0, "Wait some minutes"),
        ({"Retry-After": "soon"}, 0, "Wait some minutes"),
        ({"RateLimit": '"api";r=0;t=99'}, 100, "Wait some minutes"),
        ({"RateLimit": '"api";r=1;t=99'}, 0, "Wait some minutes"),
    ],
)
def test_the_wait_that_the_hub_asks_for(headers, wait, hint):
    failure = hub_access._refused(429, "", hub_access._retry_after({name.lower(): headers[name] for name in headers}))
    assert failure.wait == wait and hint in failure.hint


def test_a_date_is_a_wait_too():
    date = email.utils.formatdate(time.time() + 7_000, usegmt=True)
    assert 6_900 < hub_access._retry_after({"retry-after": date}) <= 7_000


def test_a_call_without_end_is_given_up():
    with pytest.raises(HubFailure, match=r"x did not arrive whole within 0 s"):
        hub_access.within(0.01, "x", threading.Event().wait)
    assert hub_access.within(60, "x", lambda: 3) == 3
    with pytest.raises(ZeroDivisionError):
        hub_access.within(60, "x", lambda: 1 / 0)
