"""Talk with the Hub so that a failure is one clear sentence: repeated where it may pass, and never with a token.

huggingface_hub repeats transfers and paged listings by itself, but a single 412, 409, 429 or 500, or a cut
connection, on most other requests raises. `attempt` repeats those.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import math
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, TypeGuard, TypeVar

from visrl_data.core.text import MOST_IN_LINE
from visrl_data.core.versions import visrl_version

if TYPE_CHECKING:
    from huggingface_hub import HfApi

T = TypeVar("T")
# A response of another shape than the Hub's makes the client raise these.
_ODD_RESPONSE = (KeyError, IndexError, TypeError, AttributeError, json.JSONDecodeError)
Say = Callable[[str], None]

DELAYS = (1.0, 2.0, 4.0, 8.0)  # seconds before the second, third, ... try
AGAIN = (1.0,)  # the same for transfers, which the client itself repeats five times in 23 s
LONGEST_WAIT = 300.0  # seconds; what a rate limit may ask for (the Hub's window is five minutes)
SILENCE = 300.0  # seconds without a byte after which a connection is given up; the client's own limit is none
_TRANSIENT = {408, 409, 412, 425, 429, 500, 502, 503, 504}
_UNSURE = {408, 500, 502, 504}  # the request may have been carried out all the same
_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@dataclass(eq=False)
class HubFailure(Exception):
    """A step that failed for good. Its callers word it, with what the Hub holds, as a VisRLError.

    reason: in words; hint: what to do about it. status: of the response, None without one. transient: the same
    request may succeed in `wait` seconds. unsure: what was requested may have been done all the same.
    """

    reason: str
    hint: str
    status: int | None = None
    transient: bool = False
    unsure: bool = False
    wait: float = 0.0
    step: str = ""


def hub_api() -> HfApi:
    """Return a client of the Hub whose user agent names this package and its version."""
    from huggingface_hub import HfApi

    return HfApi(library_name="visrl", library_version=visrl_version())


def attempt(
    step: str,
    call: Callable[[], T],
    say: Say = lambda _: None,
    delays: tuple[float, ...] | None = None,
    writes: bool = False,
) -> T:
    """Return the result of a call to the client, repeated while its failure may pass. Raises HubFailure.

    writes: the call changes the Hub. It must look first whether that was done already, since a response can get lost.
    """
    from huggingface_hub.errors import HTTPError

    pauses, unsure = iter(DELAYS if delays is None else delays), False
    while True:
        try:
            return call()
        except (HTTPError, OSError, ValueError, RuntimeError, HubFailure, *_ODD_RESPONSE) as error:  # of the client
            failure = diagnose(error)
        failure.step, failure.unsure = step, unsure or (writes and failure.unsure)
        unsure, pause = failure.unsure, next(pauses, None)
        if pause is None or not failure.transient or failure.wait > LONGEST_WAIT:
            raise failure
        seconds = max(pause, failure.wait)
        say(f"{step}: {failure.reason}; trying again in {seconds:.0f} s")
        time.sleep(seconds)


def diagnose(error: BaseException) -> HubFailure:
    """Explain an exception of the client."""
    from huggingface_hub.errors import HTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled

    chain = list(_chain(error))
    for cause in chain:
        if isinstance(cause, HubFailure):
            return cause
        if isinstance(cause, LocalTokenNotFoundError):
            return HubFailure("there is no Hub token on this machine", _LOGIN, 401)
        if isinstance(cause, OfflineModeIsEnabled):
            return HubFailure("HF_HUB_OFFLINE is set, so nothing is sent", "Unset HF_HUB_OFFLINE.")
        if disk_full(cause):
            return HubFailure(f"a disk of this machine is full ({cause.strerror})", MAKE_ROOM)
    for cause in chain:
        response = getattr(cause, "response", None)
        if response is not None and response.status_code >= 400:
            message = short(getattr(cause, "server_message", None) or "")
            return _refused(response.status_code, message, _retry_after(response.headers))
        if status := re.search(r"HTTP status \w+ error \((\d{3})", str(cause)):  # hf_xet's words
            return _refused(int(status[1]), "", 0.0)
    root = f"({_words(chain[-1])})"
    if "Consistency check failed" in str(chain[-1]):  # the client's words for a file of another size
        return HubFailure("a file did not arrive whole", "Check the connection.", transient=True)
    if type(chain[-1]).__name__ == "TooManyRedirects":  # of the HTTP library, whose name differs between versions
        return HubFailure("the Hub's address leads in a circle", "Check HF_ENDPOINT and any proxy.")
    if any(isinstance(cause, (HTTPError, ConnectionError, TimeoutError)) for cause in chain):
        return HubFailure(f"the connection failed {root}", "Check the connection.", transient=True, unsure=True)
    if isinstance(chain[-1], _ODD_RESPONSE):
        hint = "Check HF_ENDPOINT and any proxy."
        return HubFailure(f"the response was not one of the Hub's {root}", hint, transient=True, unsure=True)
    return HubFailure(_words(error), "Fix what it names.")


def _words(error: BaseException) -> str:
    """Return an exception's name, and its text where it has one."""
    text = short(error).strip(" .")
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def disk_full(error: BaseException) -> TypeGuard[OSError]:
    """Tell whether an error is of a full disk, a quota or a file that may not grow."""
    return isinstance(error, OSError) and error.errno in _DISK


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an exception and those that it was raised from: upload threads and caches wrap the one that matters."""
    while error is not None:
        yield error
        error = error.__cause__


MAKE_ROOM = "Free some space, or point TMPDIR and HF_HOME to a larger disk."
_LOGIN = "Log in with `hf auth login`, or set HF_TOKEN to a token that may write."
_LATER = "Try again later; https://status.huggingface.co reports outages."
_MEANINGS = {  # status: what it means, what to do
    400: ("the Hub refuses", "Fix what the Hub names."),
    401: ("the Hub does not accept the token", _LOGIN),
    402: ("the Hub refuses", "See the billing settings of the account on the Hub."),
    403: (
        "the token may not do this",
        "Use a token that may write to this repository (`hf auth login`), or another --hub-id.",
    ),
    404: ("not found on the Hub", "Check --hub-id, and that the token may read it."),
    409: ("the Hub reports a conflict", _LATER),
    412: ("the branch has moved", _LATER),
    413: ("the Hub refuses", "Make the shards smaller."),
    429: ("the Hub's rate limit is reached", "Wait some minutes."),
}


def _refused(status: int, message: str, wait: float) -> HubFailure:
    """Explain a response with an error status. message: the Hub's words."""
    from huggingface_hub import get_token

    if status == 401 and get_token() is None:
        return HubFailure("there is no Hub token on this machine", _LOGIN, 401)
    meaning, hint = _MEANINGS.get(status) or ("the Hub has a fault" if status >= 500 else "the Hub refuses", _LATER)
    return HubFailure(
        reason=f"{meaning} ({status}{message and f': {message}'})" + (f", and asks for {wait:.0f} s" if wait else ""),
        hint=hint if wait <= LONGEST_WAIT else f"Wait for {_duration(wait)}.",
        status=status,
        transient=status in _TRANSIENT,
        unsure=status in _UNSURE,
        wait=wait,
    )


def _duration(seconds: float) -> str:
    """Write a wait in minutes, or in hours where these are many; never less than it is."""
    return f"{math.ceil(seconds / 60)} minutes" if seconds <= 7_200 else f"{math.ceil(seconds / 3_600)} hours"


def _retry_after(headers: Mapping[str, str]) -> float:
    """Read the seconds from Retry-After (seconds or a date), or from a spent rate limit such as `"api";r=0;t=55`."""
    after = headers.get("retry-after", "")
    spent = re.search(r"\br=0\s*;\s*t=(\d+)", headers.get("ratelimit", ""), re.ASCII)
    if re.fullmatch(r"\d{1,15}", after, re.ASCII):
        return float(after)
    with contextlib.suppress(ValueError):
        return max(0.0, parsedate_to_datetime(after).timestamp() - time.time())
    return float(spent[1]) + 1 if spent else 0.0


def short(text: object) -> str:
    """Put a text on one line, masked, at most MOST_IN_LINE characters of it."""
    line = mask(" ".join(str(text).split()))
    return line if len(line) <= MOST_IN_LINE else f"{line[:MOST_IN_LINE]}..."


def mask(text: str) -> str:
    """Replace tokens, and the query of an address, where signatures stand."""
    from huggingface_hub import get_token

    if token := get_token():
        text = text.replace(token, "hf_***")
    text = re.sub(r"hf_[A-Za-z0-9]{8,}", "hf_***", text)
    text = re.sub(r"(?i)\b(bearer) [^\s'\",]+", r"\1 ***", text)
    return re.sub(r"(https?://[^\s?'\"]+)\?[^\s'\"]+", r"\1?***", text)


def _masked(record: logging.LogRecord) -> bool:
    record.msg, record.args = mask(record.getMessage()), None
    return True


def _refuse_long_waits(response: Any) -> None:
    """Raise HubFailure where the client itself would wait, without a word, for as long as the response says."""
    wait = _retry_after(response.headers) if response.status_code >= 400 else 0.0
    if wait > LONGEST_WAIT:
        raise _refused(response.status_code, short(response.headers.get("x-error-message") or ""), wait)


def within(seconds: float, what: str, call: Callable[[], T]) -> T:
    """Return the result of a call, or raise HubFailure when it takes longer: the client has no limit for the whole.

    The call then goes on in a thread that nobody waits for.
    """
    results: list[T] = []
    errors: list[BaseException] = []

    def work() -> None:
        try:
            results.append(call())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(seconds)
    if errors:
        raise errors[0]
    if not results:
        raise HubFailure(f"{what} did not arrive whole within {seconds:.0f} s", "Check the connection.")
    return results[0]


@contextlib.contextmanager
def careful_client() -> Iterator[None]:
    """Make the client give up a connection that stays silent, and waits beyond LONGEST_WAIT; mask what it logs."""
    from huggingface_hub.utils import get_session

    handlers = logging.getLogger("huggingface_hub").handlers + logging.getLogger().handlers
    session = get_session()
    before, session.timeout = session.timeout, SILENCE
    hooks = session.event_hooks
    session.event_hooks = {**hooks, "response": [*hooks.get("response", ()), _refuse_long_waits]}
    for handler in handlers:
        handler.addFilter(_masked)
    try:
        yield
    finally:
        session.timeout, session.event_hooks = before, hooks
        for handler in handlers:
            handler.removeFilter(_masked)
