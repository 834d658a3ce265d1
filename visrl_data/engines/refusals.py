"""When a model does not take a request: which question it was, so that this one is dropped and the others go on.

A RequestRefused is raised where a processor, a tokenizer or a server says no, and nowhere else. Any other error in a
pass is a defect of the program and ends the run.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from visrl_data.core.errors import VisRLError

# How servers and vLLM say that a prompt does not fit the model's context.
_TOO_LONG = re.compile(
    r"context[ _](length|window|size)|maximum model length|max_model_len|too many (input )?tokens"
    r"|`inputs` (tokens|must have less)|exceed[^.;]{0,40} number of tokens"
    r"|(prompt|input|request|text)[^.;]{0,40} too long|(prompt|input|token)[^.;]{0,40} exceed[^.;]{0,40}\blength",
    re.IGNORECASE,
)
# How torch says that there is no memory, where it raises an ordinary RuntimeError: on a CPU, on mps, in cuBLAS.
_NO_MEMORY = ("can't allocate memory", "out of memory", "cublas_status_alloc_failed")
# What processors raise for a picture or a text that they do not take: a side of no pixels, an aspect beyond 200.
PROCESSOR_ERRORS = (ValueError, ZeroDivisionError, RuntimeError)

Item = TypeVar("Item")
Result = TypeVar("Result")


class RequestRefused(VisRLError):
    """A model's processor or server does not take a request because of what is in it; the text is its words.

    reason: under which the question is counted among the drops.
    """

    reason = "model_refused"


class RequestTooLong(RequestRefused):
    """A prompt with its reply does not fit the model's context."""

    reason = "too_long"


REFUSAL_REASONS = (RequestRefused.reason, RequestTooLong.reason)


def refusal(text: str) -> RequestRefused:
    """Return the refusal that these words of an engine or a server mean."""
    return (RequestTooLong if _TOO_LONG.search(text) else RequestRefused)(text)


def check_length(tokens: int, new_tokens: int, limit: int | None) -> None:
    """Raise RequestTooLong when a prompt of these tokens and its reply do not fit a context of `limit` tokens."""
    if limit is not None and tokens + new_tokens > limit:
        raise RequestTooLong(
            f"a prompt of {tokens:,} tokens and a reply of up to {new_tokens:,} "
            f"do not fit the model's context of {limit:,}"
        )


@contextlib.contextmanager
def raise_refusals(*errors: type[Exception]) -> Iterator[None]:
    """Raise these errors of a processor or an engine as RequestRefused, with the first line of their text.

    Lack of memory is no refusal: it passes through.
    """
    try:
        yield
    except errors as error:
        if is_out_of_memory(error):
            raise
        raise refusal(str(error).strip().partition("\n")[0] or type(error).__name__) from error


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether a device or the machine ran out of memory."""
    known = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"  # torch's, without torch
    return known or any(words in str(error).lower() for words in _NO_MEMORY)


def isolate_refused(
    items: Sequence[Item], run: Callable[[Sequence[Item]], Sequence[Result]]
) -> list[Result | RequestRefused]:
    """Return run's result for each item, and the refusal for each item that is refused.

    run: gives one result an item, in order. It is called with all items; when one of them is refused, with each half
    of them, and so on, so that the others still share their batches.
    """
    if not items:
        return []
    try:
        return [*run(items)]
    except RequestRefused as refusal:
        if len(items) == 1:
            return [refusal]
    half = len(items) // 2
    return isolate_refused(items[:half], run) + isolate_refused(items[half:], run)
