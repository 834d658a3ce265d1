"""A page on this machine that asks models about pictures (`visrl ask --web`), side by side. Made with Gradio.

It listens on the loopback alone. Nothing is shared, counted or fetched: Gradio's analytics, run history and links are
off, and the policy that goes with every page forbids the browser any other address. What is uploaded lies in a
temporary folder, which is removed at the end.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from visrl_data.core import images
from visrl_data.core.errors import UsageError, VisRLError
from visrl_data.core.records import Question
from visrl_data.core.text import visible
from visrl_data.engines.protocol import Role
from visrl_data.evaluation import ask, loopback
from visrl_data.evaluation.ask_picture import draw_answer
from visrl_data.evaluation.config import AskConfig
from visrl_data.evaluation.eval_models import EvalModel
from visrl_data.evaluation.inference import ModelOutput

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

# Of Gradio: no requests to its makers, no history of what was asked.
_SETTINGS = {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_RUN_HISTORY": "False"}
# Its scripts compile templates (eval), and its styles are inline. No address but this server's.
_POLICY = "; ".join(
    (
        "default-src 'self' data: blob:",
        "script-src 'self' 'unsafe-inline' 'unsafe-eval'",
        "style-src 'self' 'unsafe-inline'",
        "object-src 'none'",
        "base-uri 'self'",
        "form-action 'self'",
        "frame-ancestors 'none'",
    )
)
_HEIGHT = 340  # pixels of a picture on the page
_STYLE = ".crop img { width: 100%; height: 100%; object-fit: contain; }"
_TITLE = "# Where does a model look?\nA picture and a question: the box, the crop, and the answer from it."
_CELLS = 4  # of a model's column
_BUTTONS = ["fullscreen", "download"]  # and none to share


def check_installed() -> None:
    """Raise VisRLError when Gradio is not installed."""
    if importlib.util.find_spec("gradio") is None:
        raise VisRLError("--web needs Gradio: pip install '.[web]'.")


def serve(models: Sequence[EvalModel], config: AskConfig, port: int, say: Callable[[str], None]) -> None:
    """Load the models and serve the page until Ctrl-C, which raises KeyboardInterrupt. Raises VisRLError."""
    if config.engine == "vllm" and len(models) > 1:
        raise UsageError("--web --engine vllm: vLLM takes the whole GPU for one model. Give one --model.")
    with loopback.listen(port) as listener, _upload_folder():  # before the models are loaded
        roles = []
        for model in models:
            say(f"Loading {model.name}")
            roles.append(ask.load(model, config))
        app = build_app(models, roles, config)
        say(f"Open {loopback.address(listener)} in a browser on this machine. Ctrl-C closes it.")
        loopback.run_server(app, listener)


@contextlib.contextmanager
def _upload_folder() -> Iterator[Path]:
    """Make the folder of Gradio's files, and remove it at the end. Gradio reads its settings when it is imported."""
    with tempfile.TemporaryDirectory(prefix="visrl-ask-") as folder:
        os.environ.update(_SETTINGS, GRADIO_TEMP_DIR=folder)
        yield Path(folder)


def build_app(models: Sequence[EvalModel], roles: Sequence[Role], config: AskConfig) -> ASGIApp:
    """Return the page as an application for a server; requests under another name than this machine's are refused."""
    import gradio
    from fastapi import FastAPI
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    app = FastAPI(openapi_url=None)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(loopback.NAMES))

    system = ["system-ui", "sans-serif"]
    theme = gradio.themes.Base(font=system, font_mono=["ui-monospace", "monospace"])
    gradio.mount_gradio_app(
        app,
        _build_page(models, roles, config),
        path="/",
        server_name=loopback.HOST,
        footer_links=[],
        max_file_size=images.MAX_IMAGE_BYTES,
        ssr_mode=False,
        theme=theme,
        css=_STYLE,
    )
    return _with_policy(app)


def _with_policy(app: ASGIApp) -> ASGIApp:
    """Return the application with the policy among the headers of each reply."""
    headers = [(b"content-security-policy", _POLICY.encode()), (b"referrer-policy", b"no-referrer")]

    async def run(scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_policy(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", []), *headers]}
            await send(message)

        await app(scope, receive, send_with_policy)

    return run


def _build_page(models: Sequence[EvalModel], roles: Sequence[Role], config: AskConfig) -> Any:
    """Return the page. What models and files say is shown in text boxes alone, where no character acts."""
    import gradio as gr

    def answer(path: str | None, text: str) -> Iterator[list[Any]]:
        """Yield the note and what each model's column shows: empty at first, then one more after each model."""
        columns: list[Any] = [None] * (_CELLS * len(models))
        yield [gr.skip(), *columns]
        try:
            question = _read(path, text)
            for place, (model, role) in enumerate(zip(models, roles, strict=True)):
                output = ask.answer_question(question, role, model, config)
                columns[_CELLS * place : _CELLS * (place + 1)] = _cells(question, output)
                yield [gr.skip(), *columns]
        except VisRLError as error:
            yield [visible(str(error)), *columns]

    with gr.Blocks(title="visrl ask", analytics_enabled=False, delete_cache=(3600, 3600)) as page:
        row = gr.State(ask.EXAMPLE_ROW)
        gr.Markdown(_TITLE)
        with gr.Row():
            picture = _make_upload()
            with gr.Column():
                text = gr.Textbox(label="Question", placeholder="What is on the sign?", lines=2, max_lines=4)
                button = gr.Button("Ask", variant="primary")
                example = gr.Button("Draw an example")
                note = gr.Textbox(label="Note", interactive=False, max_lines=6)
        with gr.Row():
            columns = [cell for model in models for cell in _make_column(model)]
        picture.input(lambda: "", None, note, api_visibility="private")
        example.click(_draw, row, [picture, text, note, row], api_visibility="private")
        for start in (button.click, text.submit):  # one at a time, for all who look at the page
            start(answer, [picture, text], [note, *columns], api_name="ask", concurrency_id="ask", concurrency_limit=1)
    return page


def _make_upload() -> Any:
    """Return the picture's component. It hands over the file as it is: Gradio's own reading has other limits."""
    import gradio as gr

    sources = ["upload", "clipboard"]
    upload = gr.Image(
        label="Picture", type="filepath", format="png", sources=sources, height=_HEIGHT, buttons=["fullscreen"]
    )
    upload.preprocess = lambda payload: payload and payload.path
    return upload


def _make_column(model: EvalModel) -> list[Any]:
    import gradio as gr

    with gr.Column(min_width=320):
        name = model.name
        return [
            gr.Image(label=f"{name}: box (green), crop (white)", format="png", height=_HEIGHT, buttons=_BUTTONS),
            gr.Image(label=f"{name}: crop", format="png", height=_HEIGHT // 2, buttons=_BUTTONS, elem_classes="crop"),
            gr.Textbox(label=f"{name}: answer", interactive=False, max_lines=10),
            gr.Textbox(label=f"{name}: details", interactive=False, lines=3, max_lines=10),
        ]


def _read(path: str | None, text: str) -> Question:
    if path is None:
        raise VisRLError("Choose a picture first, or draw an example.")
    return ask.read_question(Path(path), text, Path(path).name)


def _draw(row: int) -> tuple[Image.Image, str, str, int]:
    """Return the picture, question and answer of a drawn example, and the number of the next."""
    example = ask.draw_example(row)
    note = f"Example {row + 1} of the drawn world. The answer is {example.answers[0]}."
    return images.decode(example.image), example.question, note, row + 1


def _cells(question: Question, output: ModelOutput) -> list[Any]:
    """Return what a model's column shows: the picture, the crop, the response and the details."""
    picture, response = draw_answer(question, output), visible(output.response or "")
    if output.box is None or output.crop is None:
        how = ask.describe_state(output)
        return [picture, None, response, f"box {how}" if how else "This model answers at once, without a box."]
    box = ", ".join(f"{value:g}" for value in ask.box_pixels(output.box, question))
    crop = ", ".join(map(str, output.crop))
    details = f"box {box} of {question.width} x {question.height} pixels\ncrop {crop}\nreply {visible(output.reply)}"
    return [picture, images.decode(question.image).crop(output.crop), response, details]
