"""The page of `visrl audit`: a small server on the loopback that shows pairs blind and stores marks as they are made.

    GET  /TOKEN/                    the page; style.css and script.js beside it
    GET  /TOKEN/pairs               what it shows, and the annotator's marks
    GET  /TOKEN/picture/N           the image of pair N; /TOKEN/crop/N/PLACE a crop of it
    POST /TOKEN/mark                one mark, on disk before the reply

TOKEN is drawn at each start. A request without it, under another name than this machine's, or from a page of another
origin gets 403. No reply tells which side is the win. The policy that goes with every reply allows the browser this
server's own files and nothing else.

Starlette and uvicorn, because both are small and well kept; `http.server` says of itself that it is not for production.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from annotated_types import Ge
from pydantic import TypeAdapter, ValidationError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route
from typing_extensions import TypedDict

from visrl_data.core import images
from visrl_data.evaluation import audit, loopback
from visrl_data.evaluation.audit import AuditPair, AuditTarget
from visrl_data.report import page
from visrl_data.report.page_sample import shrink
from visrl_data.runs.marks import MarkFile, Unit, Verdict, open_marks

if TYPE_CHECKING:
    from starlette.types import ASGIApp

Part = Literal["box", "response"]
PARTS: tuple[Part, ...] = ("box", "response")
_FOLDER = Path(__file__).parent
_PICTURE_SIDE, _CROP_SIDE = 1600, 800  # pixels
_LONGEST = 1_000  # bytes of a mark
_POLICY = "; ".join(
    (
        *("default-src 'none'", "img-src 'self'", "style-src 'self'", "script-src 'self'", "connect-src 'self'"),
        *("base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'"),
    )
)
_ICON = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16" fill="none" stroke="#858e98" stroke-width="2">'
    '<path d="M2 2h12v12H2z"/><path d="m5 8 2 3 4-6"/></svg>'
)
_HEADERS = {
    "content-security-policy": _POLICY,
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}


class MarkRequest(TypedDict):
    """A mark as the page sends it. pair: its number; place: 0 or 1; seen: the mark that the page shows, if any."""

    pair: Annotated[int, Ge(0)]
    place: Literal[0, 1]
    part: Part
    verdict: Verdict
    seen: Verdict | None


_MARK_REQUEST = TypeAdapter(MarkRequest)


def serve(target: AuditTarget, annotator: str, sample: int, port: int, say: Callable[[str], None]) -> bool:
    """Serve the page until Ctrl-C. Return whether anything was marked. Raises VisRLError."""
    with loopback.listen(port) as listener, open_marks(target.marks, annotator) as marks:
        pairs = audit.draw(target, sample, annotator)
        before = marks.path.stat().st_size
        token = secrets.token_urlsafe(16)
        note = audit.describe_sample(len(pairs), target)
        say(note)
        say(f"Open {loopback.address(listener)}/{token}/ in a browser on this machine. Ctrl-C closes it.")
        with contextlib.suppress(KeyboardInterrupt):
            server = AuditServer(pairs, marks, {"annotator": annotator, "note": note})
            loopback.run_server(build_app(server, token), listener)
        return marks.path.stat().st_size > before


@dataclass(frozen=True, slots=True, eq=False)
class AuditServer:
    """The replies to requests that were let in. about: "annotator" and "note", which the page shows."""

    pairs: Sequence[AuditPair]
    marks: MarkFile
    about: Mapping[str, str]

    def show_pairs(self, request: Request) -> Response:
        """Return all that the page shows but pictures, with the marks."""
        items = []
        for pair in self.pairs:
            item = audit.describe_pair(pair, images.upright_size(pair.image))
            items.append(item | {"marks": _marks(pair, self.marks)})
        return JSONResponse({**self.about, "pairs": items})

    def show_picture(self, request: Request) -> Response:
        """Return the image of a pair."""
        kind, data = shrink(images.decode(self._pair(request).image), _PICTURE_SIDE)
        return Response(data, media_type=kind)

    def show_crop(self, request: Request) -> Response:
        """Return what one of a pair's boxes cuts out."""
        pair = self._pair(request)
        whole = images.decode(pair.image)
        crop = pair.row[f"{pair.sides[request.path_params['place'] % 2]}_crop"]
        kind, data = shrink(whole.crop(_inside(crop, whole.size)), _CROP_SIDE)
        return Response(data, media_type=kind)

    async def mark(self, request: Request) -> Response:
        """Store a mark; 409 where the page shows another one than is stored. Either way return the pair's marks.

        Nothing is awaited between the comparison and the write, so no other request comes between them.
        """
        body = await request.body()
        try:
            wish = _MARK_REQUEST.validate_json(body[:_LONGEST], strict=True)
            pair = self.pairs[wish["pair"]]
        except (ValidationError, IndexError):
            return Response("no mark of this page", 400)
        if _marks(pair, self.marks)[wish["place"]][wish["part"]] != wish["seen"]:
            return JSONResponse(_marks(pair, self.marks), 409)
        self.marks.add(pair.id, dict.fromkeys(_units(pair, wish), wish["verdict"]))
        return JSONResponse(_marks(pair, self.marks))

    def _pair(self, request: Request) -> AuditPair:
        number: int = request.path_params["number"]
        if number >= len(self.pairs):
            raise HTTPException(404)
        return self.pairs[number]


def build_app(server: AuditServer, token: str) -> ASGIApp:
    """Return the page as an application."""

    async def guard(request: Request, answer: Callable[[Request], Awaitable[Response]]) -> Response:
        response = await answer(request) if _is_welcome(request, token) else Response("forbidden", 403)
        response.headers.update(_HEADERS)
        return response

    def file(text: str, kind: str) -> Callable[[Request], Response]:
        return lambda request: Response(text, media_type=kind)

    text = {name: page.asset(f"audit_page.{name}", _FOLDER) for name in ("html", "css", "js")}
    routes = [
        Route("/", file(text["html"], "text/html")),
        Route("/style.css", file(page.asset("page.css") + text["css"], "text/css")),
        Route("/script.js", file(page.asset("page_parts.js") + text["js"], "text/javascript")),
        Route("/icon.svg", file(_ICON, "image/svg+xml")),
        Route("/pairs", server.show_pairs),
        Route("/picture/{number:int}", server.show_picture),
        Route("/crop/{number:int}/{place:int}", server.show_crop),
        Route("/mark", server.mark, methods=["POST"]),
    ]
    return Starlette(
        routes=[Mount(f"/{token}", routes=routes)], middleware=[Middleware(BaseHTTPMiddleware, dispatch=guard)]
    )


def _is_welcome(request: Request, token: str) -> bool:
    """Tell whether a request names this machine, comes from no other page, and knows the token."""
    host, origin = request.headers.get("host", ""), request.headers.get("origin")
    knows = secrets.compare_digest(request.url.path.split("/")[1].encode(), token.encode())
    return host.rpartition(":")[0] in loopback.NAMES and origin in (None, f"http://{host}") and knows


def _units(pair: AuditPair, wish: MarkRequest) -> list[Unit]:
    """Return what a mark is of; where both responses are the same text, of both."""
    is_both = wish["part"] == "response" and pair.row["same_response"]
    return [_unit(pair, place, wish["part"]) for place in ((0, 1) if is_both else (wish["place"],))]


def _unit(pair: AuditPair, place: int, part: Part) -> Unit:
    units: dict[tuple[str, Part], Unit] = {
        ("win", "box"): "win_box",
        ("win", "response"): "win_response",
        ("lose", "box"): "lose_box",
        ("lose", "response"): "lose_response",
    }
    return units[pair.sides[place], part]


def _marks(pair: AuditPair, marks: MarkFile) -> list[dict[Part, Verdict | None]]:
    """Return the marks of a pair, by place and part."""
    known = marks.marks.get(pair.id, {})
    return [{part: known.get(_unit(pair, place, part)) for part in PARTS} for place in (0, 1)]


def _inside(crop: Sequence[int], size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Return the part of a crop that lies in an image: that of a stranger's set may lie anywhere."""
    left, top = (min(max(start, 0), side - 1) for start, side in zip(crop[:2], size, strict=True))
    right, bottom = (
        min(max(end, start + 1), side) for end, start, side in zip(crop[2:], (left, top), size, strict=True)
    )
    return left, top, right, bottom
