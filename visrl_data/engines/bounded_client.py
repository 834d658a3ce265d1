"""An HTTP client whose replies are bounded in bytes and in time. Used by openai.py.

The client of the openai package bounds the wait for the next bytes only: a server that sends one now and then is
waited for without end, and one that sends without end is read until memory is full. Redirects are not followed: a
request holds pictures and a key, which are for the server that was named.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import openai

MAX_BYTES = 4 * 2**20  # of one reply, decoded: hundreds of times the longest that is asked for
_ENCODINGS = ("", "identity", "gzip", "deflate")  # one chunk of these decodes to 64 MiB at most


class BoundedClient(openai.DefaultAsyncHttpxClient):
    """Read whole replies of at most MAX_BYTES within `seconds`; a larger one is answered here, as a 413.

    Raises TimeoutError, after which the openai package tries again.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__(timeout=seconds)
        self._seconds = seconds

    async def send(self, request: Any, **options: Any) -> Any:
        async with asyncio.timeout(self._seconds):
            response = await super().send(request, **{**options, "stream": True, "follow_redirects": False})
            try:
                content = await _read(response)
            finally:
                await response.aclose()
        headers = {name: value for name, value in response.headers.items() if name not in _OF_THE_BODY}
        status = response.status_code
        if content is None:
            status, content = 413, json.dumps({"error": {"message": _TOO_LARGE}}).encode()
        return type(response)(status, headers=headers, content=content, request=request)


_OF_THE_BODY = ("content-encoding", "content-length", "transfer-encoding")
_TOO_LARGE = f"the server's reply is larger than {MAX_BYTES // 2**20} MiB"


async def _read(response: Any) -> bytes | None:
    """Return the decoded body; None when it is too large, or in an encoding that was not requested."""
    if response.headers.get("content-encoding", "").strip().lower() not in _ENCODINGS:
        return None
    content = bytearray()
    async for chunk in response.aiter_bytes():
        content += chunk
        if len(content) > MAX_BYTES:
            return None
    return bytes(content)
