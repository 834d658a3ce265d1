"""Talking with the Hub so that a failure is one clear sentence: repeated where it may pass, and never with a token.

huggingface_hub repeats uploads and paged listings by itself, but a single 412, 409, 429 or 500, or a cut
connection, on most other requests raises. `attempt` repeats those, and asks first whether the step was done
after all: an answer can get lost on its way. release.py is made of such attempts.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeGuard, TypeVar

from visrl_data.core.versions import visrl_version

if TYPE_CHECKING:
    from huggingface_hub import HfApi

T = TypeVar("T")

DELAYS = (1.0, 2.0, 4.0, 8.0)  # seconds before the second, third, ... try
AGAIN = (1.0,)  # the same for requests that the client itself repeats, five times in 23 s
LONGEST_WAIT = 300.0  # seconds; what a rate limit may ask for (the Hub's window is five minutes)
SILENCE = 300.0  # seconds without a byte after which a connection is given up; the client's own limit is none
_PASSING = {408, 409, 412, 425, 429, 500, 502, 503, 504}
_UNSURE = {408, 500, 502, 504}  # the step may have been done all the same
_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a request failed. reason: in words; mend: what to do about it.

    status: of the answer, None when there was none. passing: the same request may succeed in `wait` seconds.
    unsure: what was asked for may have been done all the same.
    """

    reason: str
    mend: str
    status: int | None = None
    passing: bool = False
    unsure: bool = False
    wait: float = 0.0


class HubFailure(Exception):
    """A step that failed for good. release.py words it, with what the Hub holds, as a VisRLError.

    unsure: the step changes the Hub, and may have been done.
    """

    def __init__(self, step: str, failure: Failure, unsure: bool = False) -> None:
        super().__init__(step)
        self.step, self.failure, self.unsure = step, failure, unsure


def hub_api() -> HfApi:
    """Return a client of the Hub whose user agent names this package and its version."""
    from huggingface_hub import HfApi

    return HfApi(library_name="visrl", library_version=visrl_version())


def attempt(
    step: str,
    call: Callable[[], T],
    say: Callable[[str], None] = lambda _: None,
    settled: Callable[[], T | None] | None = None,
    delays: tuple[float, ...] | None = None,
) -> T:
    """The result of a call to the client, tried again after what may pass.

    settled: for steps that change the Hub: looks whether the step was done, None if it was not. It is asked
    before each repetition, and as long as it cannot tell, a step that may have been done is not repeated.
    Raises HubFailure, and the VisRLErrors of `settled`.
    """
    pauses = () if _looking.get() else DELAYS if delays is None else delays
    failure = Failure("", "")
    for pause in (None, *pauses):
        if pause is not None:
            seconds = max(pause, failure.wait)
            say(f"{step}: {failure.reason}; trying again in {seconds:.0f} s")
            time.sleep(seconds)
        try:
            if pause is not None and settled and (found := _look(settled)) is not None:
                return found
            return call()
        except HubFailure:  # of the look: nothing is known, so nothing is repeated
            continue
        except client_errors() as error:
            failure = diagnose(error)
        if not failure.passing or failure.wait > LONGEST_WAIT:
            break
    if settled and failure.unsure:
        with contextlib.suppress(HubFailure):
            if (found := _look(settled)) is not None:
                return found
    raise HubFailure(step, failure, settled is not None and failure.unsure)


_looking: ContextVar[bool] = ContextVar("_looking", default=False)


def _look(settled: Callable[[], T | None]) -> T | None:
    """Ask once, without repetitions: the caller repeats."""
    mark = _looking.set(True)
    try:
        return settled()
    finally:
        _looking.reset(mark)


def client_errors() -> tuple[type[Exception], ...]:
    """All that the client raises because of the Hub, the network or the disk. KeyError: an answer without its parts."""
    from huggingface_hub.errors import HTTPError

    return (HTTPError, OSError, ValueError, RuntimeError, KeyError)


def diagnose(error: BaseException) -> Failure:
    """What an exception of the client means."""
    from huggingface_hub.errors import HTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled

    chain = list(_chain(error))
    for cause in chain:
        if isinstance(cause, LocalTokenNotFoundError):
            return Failure("there is no Hub token on this machine", _LOGIN)
        if isinstance(cause, OfflineModeIsEnabled):
            return Failure("HF_HUB_OFFLINE is set, so nothing is sent", "Unset HF_HUB_OFFLINE.")
        if disk_full(cause):
            return Failure(f"a disk of this machine is full ({cause.strerror})", MAKE_ROOM)
    for cause in chain:
        response = getattr(cause, "response", None)
        if response is not None and response.status_code >= 400:
            said = short(getattr(cause, "server_message", None) or "")
            return _answered(response.status_code, said, _asked_wait(response.headers))
        if told := re.search(r"HTTP status \w+ error \((\d{3})", str(cause)):  # hf_xet's words
            return _answered(int(told[1]), "", 0.0)
    if any(isinstance(cause, (HTTPError, ConnectionError, TimeoutError)) for cause in chain):
        reason = f"the connection failed ({type(chain[-1]).__name__}: {short(chain[-1])})"
        return Failure(reason, "Check the connection.", passing=True, unsure=True)
    if isinstance(chain[-1], (KeyError, json.JSONDecodeError)):
        reason = f"the answer was not one of the Hub's ({type(chain[-1]).__name__}: {short(chain[-1])})"
        return Failure(reason, "Check HF_ENDPOINT and any proxy.", passing=True, unsure=True)
    return Failure(f"{type(chain[0]).__name__}: {short(chain[0])}", "Mend what it names.")


def disk_full(error: BaseException) -> TypeGuard[OSError]:
    return isinstance(error, OSError) and error.errno in _DISK


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An exception and those that it was raised from: upload threads and caches wrap the one that tells."""
    found: BaseException | None = error
    while found is not None:
        yield found
        found = found.__cause__


MAKE_ROOM = "Free some space, or point TMPDIR and HF_HOME to a larger disk."
_LOGIN = "Log in with `hf auth login`, or set HF_TOKEN to a token that may write."
_MENDS = {
    400: "Mend what the Hub names.",
    401: _LOGIN,
    402: "See the billing settings of the account on the Hub.",
    403: "Use a token that may write to this repository (`hf auth login`), or another --hub-id.",
    404: "Check --hub-id, and that the token may read it.",
    413: "Make the shards smaller.",
    429: "Wait some minutes.",
}


def _answered(status: int, said: str, wait: float) -> Failure:
    """What an answer with an error's status means. said: the Hub's words."""
    from huggingface_hub import get_token

    if status == 401 and get_token() is None:
        return Failure("there is no Hub token on this machine", _LOGIN, status)
    names = {401: "the Hub does not accept the token", 403: "the token may not do this", 404: "not found on the Hub"}
    names |= {409: "the Hub reports a conflict", 412: "the branch has moved", 429: "the Hub's rate limit is reached"}
    name = names.get(status) or ("the Hub has a fault" if status >= 500 else "the Hub refuses")
    return Failure(
        reason=f"{name} ({status}{': ' + said if said else ''})" + (f", and asks for {wait:.0f} s" if wait else ""),
        mend=_MENDS.get(status, "Try again later; https://status.huggingface.co tells about outages."),
        status=status,
        passing=status in _PASSING,
        unsure=status in _UNSURE,
        wait=wait,
    )


def _asked_wait(headers: Mapping[str, str]) -> float:
    """Seconds from Retry-After, or from a spent rate limit such as `"api";r=0;t=55`."""
    after = headers.get("retry-after", "")
    spent = re.search(r"\br=0\s*;\s*t=(\d+)", headers.get("ratelimit", ""))
    return float(after) if after.isdigit() else float(spent[1]) + 1 if spent else 0.0


def short(text: object, limit: int = 300) -> str:
    """On one line, masked, at most `limit` characters."""
    line = mask(" ".join(str(text).split()))
    return line if len(line) <= limit else f"{line[:limit]}..."


def mask(text: str) -> str:
    """Without tokens, and without the query of an address, where signatures stand."""
    from huggingface_hub import get_token

    token = get_token()
    if token:
        text = text.replace(token, "hf_***")
    text = re.sub(r"hf_[A-Za-z0-9]{8,}", "hf_***", text)
    text = re.sub(r"(?i)\b(bearer) [^\s'\",]+", r"\1 ***", text)
    return re.sub(r"(https?://[^\s?'\"]+)\?[^\s'\"]+", r"\1?***", text)


class _Masked(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = mask(record.getMessage()), None
        return True


@contextlib.contextmanager
def careful_client() -> Iterator[None]:
    """While it lasts the client gives up a connection that stays silent, and what it logs is masked."""
    from huggingface_hub.utils import get_session

    handlers, masked = logging.getLogger("huggingface_hub").handlers + logging.getLogger().handlers, _Masked()
    session = get_session()
    before = session.timeout
    session.timeout = SILENCE
    for handler in handlers:
        handler.addFilter(masked)
    try:
        yield
    finally:
        session.timeout = before
        for handler in handlers:
            handler.removeFilter(masked)
