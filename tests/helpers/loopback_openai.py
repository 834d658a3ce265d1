"""A server with OpenAI's chat API on a loopback port: replies by a script, a log of what was asked, faults on demand.

A reply depends on the request alone, so a run against it can be compared with another. The engine's trial requests
(the text "?") are answered and logged apart. As vLLM (`program`) it obeys grammars of one text, tokenizes (a character
is a token) and gives the probabilities of tokens; as `transformers serve` it lists its routes.
"""

from __future__ import annotations

import base64
import contextlib
import gzip
import hashlib
import io
import json
import math
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from PIL import Image

from visrl_data.core.prompts import PromptPart
from visrl_data.engines.protocol import Request, Sampling

BOMB = gzip.compress(bytes(2**24), 9)  # 16 MiB in 16 kB


@dataclass(frozen=True, slots=True)
class Asked:
    """One request as it arrived. digest: of its whole body; before: how often that body had come already."""

    digest: str
    before: int
    body: dict[str, Any]
    authorization: str

    @property
    def text(self) -> str:
        return "\n".join(part.text for part in as_request(self.body).parts if part.text)


# What goes wrong with a request: "" or None is nothing; else a key of FAULTS, "drop", "slow", or one of ENDLESS.
ENDLESS = {"endless": (b"x" * 2**16, 0.0, ""), "dribble": (b"x", 0.05, ""), "bomb": (BOMB, 0.0, "gzip")}
Fault = Callable[[Asked], str | None]
FAULTS: dict[str, tuple[int, str, dict[str, str]]] = {
    "400": (400, '{"error": {"message": "this picture is too large"}}', {}),
    "401": (401, '{"error": {"message": "Incorrect API key provided: KEY"}}', {}),
    "403": (403, '{"error": {"message": "no access to this model", "code": "forbidden"}}', {}),
    "moderated": (403, '{"error": {"code": 403, "message": "It was flagged", "metadata": {"reasons": ["x"]}}}', {}),
    "policy": (403, '{"error": {"code": "content_policy_violation", "message": "no"}}', {}),
    "404": (404, '{"error": {"message": "no such model", "code": "model_not_found"}}', {}),
    "429": (429, '{"error": {"message": "slow down"}}', {"Retry-After": "0.3"}),
    "500": (500, '{"error": {"message": "KEY crashed"}}', {"Retry-After": "0.01"}),
    "garbage": (200, '{"choices": [{"mess', {"Content-Type": "application/json"}),
    "page": (200, "<html>Welcome</html>", {"Content-Type": "text/html"}),
    "deep": (200, "[" * 100_000, {"Content-Type": "application/json"}),
    "failed behind": (200, '{"error": {"message": "KEY: the provider is down", "code": 502}}', {}),
    "broken off": (200, '{"choices": [{"message": {"content": "[0."}, "finish_reason": "error"}]}', {}),
    "empty": (200, '{"choices": []}', {}),
    "no usage": (200, '{"choices": [{"message": {"content": "7"}}], "usage": {}}', {}),
    "odd usage": (200, '{"choices": [{"message": {"content": "7"}}], "usage": {"prompt_tokens": "many"}}', {}),
    "usage of a text": (200, '{"choices": [{"message": {"content": "7"}}], "usage": "none"}', {}),
    "echo": (200, '{"choices": [{"message": {"content": "KEY, 7"}}]}', {}),
    "echo in a refusal": (200, '{"choices": [{"message": {"refusal": "not for KEY"}}]}', {}),
    "moved": (307, "", {"Location": "http://127.0.0.1:9/v1"}),
    "filtered": (200, '{"choices": [{"message": {"content": null}, "finish_reason": "content_filter"}]}', {}),
}


@dataclass
class Server:
    """script: (request, seed) -> text. pause: seconds before each reply. busy, most: open requests, and their peak.

    program: which server it is. listings: more of a model's row in the list of models. weigh: (request, the beginning
    of the reply, a next character) -> its probability. obeys_grammars: or ignores them without a word. length: of a
    prompt, in tokens. logprob: of each token of a reply that is to come with them, None where the field is ignored.
    """

    script: Callable[[Request, int], str]
    fault: Fault = lambda asked: None
    models: tuple[str, ...] = ("actor", "critic")
    pause: float = 0.0
    program: str = "test"
    listings: dict[str, dict[str, str]] = field(default_factory=dict)
    weigh: Callable[[Request, str, str], float] = lambda request, text, token: 0.1
    obeys_grammars: bool = True
    length: Callable[[Request], int] = lambda request: 10 + len(request.images)
    logprob: float | None = None
    log: list[Asked] = field(default_factory=list)
    trials: list[Asked] = field(default_factory=list)
    answered: list[str] = field(default_factory=list)
    most: int = 0
    busy: int = 0

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_port}/v1"
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()

    def repeats(self) -> dict[str, int]:
        """Bodies that came more than once, with how often."""
        counts: dict[str, int] = {}
        for asked in self.log:
            counts[asked.digest] = counts.get(asked.digest, 0) + 1
        return {digest: count for digest, count in counts.items() if count > 1}

    def take(self, body: dict[str, Any], authorization: str) -> tuple[Asked, str | None]:
        digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
        with self._lock:
            before = sum(asked.digest == digest for asked in self.log)
            asked = Asked(digest, before, body, authorization)
            (self.trials if asked.text.partition("\n")[0] == "?" else self.log).append(asked)
            return asked, self.fault(asked)

    def answer(self, asked: Asked) -> dict[str, Any]:
        """A completion; the words of the reply, cut at max_tokens, count as its tokens."""
        request = as_request(asked.body)
        if asked.body.get("logprob_token_ids") and self.program == "vllm":
            return self._probabilities(asked, request)
        words = (self._by_grammar(asked.body) or self.script(request, asked.body.get("seed", 0))).split(" ")
        cut = words[: asked.body["max_tokens"]]
        message = {"role": "assistant", "content": " ".join(cut)}
        choice: dict[str, Any] = {"message": message, "finish_reason": "stop" if cut == words else "length"}
        if asked.body.get("logprobs") and self.logprob is not None:
            content = [{"token": word, "logprob": self.logprob, "bytes": None, "top_logprobs": []} for word in cut]
            choice["logprobs"] = {"content": content}
        return self._completion(asked, choice, self.length(request), len(cut))

    def _completion(self, asked: Asked, choice: dict[str, Any], prompt: int, completion: int) -> dict[str, Any]:
        usage = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": 0}
        return {
            "id": asked.digest[:8], "object": "chat.completion", "created": 0, "model": asked.body["model"],
            "choices": [{"index": 0, **choice}], "usage": usage,
        }  # fmt: skip

    def _by_grammar(self, body: dict[str, Any]) -> str:
        """The text of a grammar that allows one only; "" without such a grammar."""
        grammar = body.get("structured_outputs", {}).get("grammar", "")
        only = re.fullmatch(r'(?:%.*\n)?start: "([^"\\]*)"', grammar)
        return only[1] if only and self.program == "vllm" and self.obeys_grammars else ""

    def _probabilities(self, asked: Asked, request: Request) -> dict[str, Any]:
        """A completion of the last turn, with the log probabilities of the tokens that are asked for."""
        assert asked.body["continue_final_message"] and not asked.body["add_generation_prompt"]
        begun = request.parts[-1].text
        tokens = [
            {"token": f"token_id:{token}", "logprob": math.log(self.weigh(request, begun, chr(token))), "bytes": None}
            for token in asked.body["logprob_token_ids"]
        ]
        content = [{"token": "token_id:0", "logprob": 0.0, "bytes": None, "top_logprobs": tokens}]
        message = {"role": "assistant", "content": "x"}
        choice = {"message": message, "finish_reason": "length", "logprobs": {"content": content}}
        return self._completion(asked, choice, self.length(request) + len(begun), 1)


def as_request(body: dict[str, Any]) -> Request:
    """The body's turns as parts: a lone picture is the image, or the crop where the box critic speaks."""
    parts: list[PromptPart] = []
    images: list[Image.Image] = []
    for turn in body["messages"]:
        if turn["role"] == "assistant":
            parts.append(PromptPart("reply", turn["content"]))
            continue
        for piece in turn["content"]:
            if piece["type"] == "text":
                parts.append(PromptPart("text", piece["text"]))
            else:
                data = base64.b64decode(piece["image_url"]["url"].removeprefix("data:image/png;base64,"))
                images.append(Image.open(io.BytesIO(data)).convert("RGB"))
                parts.append(PromptPart("crop" if len(images) > 1 else "image"))
    text = "\n".join(part.text for part in parts)
    if "Standard answer" in text and "Model answer" not in text:
        parts = [PromptPart("crop") if part.kind == "image" else part for part in parts]
    return Request(tuple(parts), tuple(images), (0,), Sampling())


def _handler(server: Server) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            if self.path == "/openapi.json":
                paths = ["/load_model", "/reset"] if server.program == "transformers" else []
                self._send(200, json.dumps({"paths": dict.fromkeys(paths, {})}), {})
                return
            if server.program == "transformers":  # fails without a cache of the Hub, and then closes the connection
                self._send(500, "Internal Server Error", {"Content-Type": "text/plain"})
                self.close_connection = True
                return
            row = {"object": "model", "created": 0, "owned_by": server.program}
            rows = [{"id": name, **row, **server.listings.get(name, {})} for name in server.models]
            self._send(200, json.dumps({"object": "list", "data": rows}), {})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if self.path in ("/tokenize", "/detokenize"):
                self._tokens(body)
                return
            asked, fault = server.take(body, self.headers.get("Authorization", ""))
            with server._lock:
                server.busy += 1
                server.most = max(server.most, server.busy)
            try:
                time.sleep(server.pause)
                self._reply(asked, fault)
            finally:
                with server._lock:
                    server.busy -= 1

        def _reply(self, asked: Asked, fault: str | None) -> None:
            if asked.body["model"] not in server.models:
                fault = "404"
            if fault == "drop":
                self.close_connection = True
                self.connection.close()
                return
            if fault == "slow":
                time.sleep(1.5)
            if fault in ENDLESS:
                self._pour(*ENDLESS[fault])
                return
            if fault in FAULTS:
                status, text, headers = FAULTS[fault]
                self._send(status, text.replace("KEY", asked.authorization.removeprefix("Bearer ")), headers)
                return
            text = json.dumps(server.answer(asked))
            server.answered.append(asked.digest)
            self._send(200, text, {})

        def _tokens(self, body: dict[str, Any]) -> None:
            if server.program != "vllm":
                self._send(404, "{}", {})
            elif self.path == "/tokenize":
                self._send(200, json.dumps({"tokens": [ord(character) for character in body["prompt"]]}), {})
            else:
                self._send(200, json.dumps({"prompt": "".join(map(chr, body["tokens"]))}), {})

        def _pour(self, data: bytes, pause: float, encoding: str) -> None:
            """Send data again and again, until the client leaves."""
            self.close_connection = True
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            if encoding:
                self.send_header("Content-Encoding", encoding)
            self.end_headers()
            with contextlib.suppress(OSError):
                while True:
                    self.wfile.write(data)
                    time.sleep(pause)

        def _send(self, status: int, text: str, headers: dict[str, str]) -> None:
            data = text.encode()
            self.send_response(status)
            for name, value in ({"Content-Type": "application/json"} | headers).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            pass

    return Handler
