"""The live page's server: a conversation, template and policy in, tokens out at each keystroke.

In: what encodes (``live_worker``), rows to begin with, a secret. Out: an ASGI application.

Whoever can open a port of this machine is told nothing and can start nothing:

* the page and its scripts are the same for everybody and hold no data;
* everything else is asked for by POST, with the secret of this run in a header. The secret stands
  behind the ``#`` of the address that the command prints, which browsers send to nobody;
* a Host that does not name this machine is refused (DNS rebinding), as is another Origin;
* no header lets another site read an answer, or frame the page.
"""

from __future__ import annotations

import ipaddress
import json
import re
import secrets
import socket
from collections.abc import Callable, Mapping
from importlib.resources import files
from typing import Any, Protocol

import anyio
from anyio.to_thread import run_sync
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lossmask.errors import InputError, LossmaskError
from lossmask.live_worker import SLOW
from lossmask.row_picker import RowPicker

TOKEN_HEADER = "X-Lossmask-Token"
_LARGEST = 16 << 20  # bytes of a question
_PAGES = 64  # open ones whose newest question is remembered
_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[0-9a-z._-]+)(:[0-9]{1,5})?")
_TYPES = {"html": "text/html", "js": "text/javascript", "css": "text/css"}
_ASSETS = ("page.js", "tokens.js", "live.js", "page.css", "tokens.css", "live.css")
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class Asking(Protocol):
    """What answers questions; see ``LiveWorker``."""

    def ask(self, question: str, given: Mapping[str, Any]) -> bytes:
        """Return the answer as JSON."""


def live_app(
    worker: Asking,
    slow_worker: Asking,
    token: str,
    *,
    rows: RowPicker | None = None,
    is_remote: bool = False,
) -> ASGIApp:
    """Return the application.

    Args:
        worker: Encodes.
        slow_worker: Answers what takes longer, so that no keystroke waits for it.
        token: The secret of this run.
        rows: Data to begin with, if any.
        is_remote: Whether other machines may ask: by this one's address or name.
    """
    lanes = {worker: _Newest(), slow_worker: _Newest()}

    async def encode(request: Request) -> Response:
        given = await _body(request)
        question, page, number, state = (
            given.get(name) for name in ("question", "page", "number", "state")
        )
        if not (
            isinstance(question, str)
            and isinstance(page, str)
            and len(page) <= 64
            and isinstance(number, int)
            and isinstance(state, dict)
        ):
            raise InputError(
                "expected the keys question and page, texts, number, and state, an object",
                reason="bad_request",
            )
        chosen = slow_worker if question in SLOW else worker
        async with lanes[chosen].turn(page, number) as is_newest:
            if not is_newest:
                return JSONResponse({"superseded": True})
            answer = await run_sync(chosen.ask, question, state)
        return Response(answer, media_type="application/json")

    async def row(request: Request) -> Response:
        number = (await _body(request)).get("number")
        if not isinstance(number, int) or isinstance(number, bool):
            raise InputError("expected the key number, a whole number", reason="bad_request")
        if rows is None:
            return JSONResponse({"row": None})
        raw = await run_sync(rows.row, number)
        return JSONResponse(
            {
                "row": raw.data.decode("utf-8", "replace"),
                "problem": raw.problem,
                "number": raw.row,
                "place": raw.place,
                "count": rows.count,
            }
        )

    routes = [
        Route("/", _asset("live.html"), methods=["GET"]),
        *(Route(f"/{name}", _asset(name), methods=["GET"]) for name in _ASSETS),
        Route("/encode", encode, methods=["POST"]),
        Route("/row", row, methods=["POST"]),
    ]
    app = Starlette(routes=routes, exception_handlers={LossmaskError: _refused})
    return _Guard(app, token, is_remote=is_remote)


class _Newest:
    """Lets one question be answered at a time, and of each page only the newest that waits."""

    def __init__(self) -> None:
        self._lock = anyio.Lock()
        self._numbers: dict[str, int] = {}

    def turn(self, page: str, number: int) -> _Turn:
        """Wait for the turn of a page's question; they may arrive in another order than asked."""
        self._numbers[page] = max(number, self._numbers.pop(page, number))
        while len(self._numbers) > _PAGES:
            del self._numbers[next(iter(self._numbers))]
        return _Turn(self._lock, lambda: self._numbers.get(page, number) == number)


class _Turn:
    """The turn of one question, and whether it is still to be answered when that comes."""

    def __init__(self, lock: anyio.Lock, is_newest: Callable[[], bool]) -> None:
        self._lock = lock
        self._is_newest = is_newest

    async def __aenter__(self) -> bool:
        await self._lock.acquire()
        return self._is_newest()

    async def __aexit__(self, *error: object) -> None:
        self._lock.release()


class _Guard:
    """Refuses what does not come from the page itself; puts headers on every answer."""

    def __init__(self, app: ASGIApp, token: str, *, is_remote: bool) -> None:
        self._app = app
        self._token = token
        self._names = {socket.gethostname().lower()} if is_remote else set()
        self._is_remote = is_remote

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return  # nothing here speaks anything else

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [
                    *message.get("headers", []),
                    *((key.lower().encode(), value.encode()) for key, value in _HEADERS.items()),
                ]
            await send(message)

        request = Request(scope, receive)
        problem = self._problem(request)
        if problem is not None:
            refusal = JSONResponse({"reason": "forbidden", "detail": problem}, status_code=403)
            await refusal(scope, receive, send_with_headers)
            return
        await self._app(scope, receive, send_with_headers)

    def _problem(self, request: Request) -> str | None:
        """Return why a request is refused, None if it is not."""
        hosts = request.headers.getlist("host")
        if len(hosts) != 1 or not self._is_here(hosts[0]):
            return f"this server is not {', '.join(hosts) or 'nobody'}"
        origin = request.headers.get("origin")
        if origin is not None and origin != f"http://{hosts[0]}":
            return f"a page of {origin} may not ask this server"
        if request.headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
            is_visit = request.headers.get("sec-fetch-mode") == "navigate"
            if not (is_visit and request.method == "GET"):  # following a link shows but the page
                return "another site may not ask this server"
        if request.method in ("GET", "HEAD"):
            return None
        given = request.headers.get(TOKEN_HEADER, "")
        if not secrets.compare_digest(given.encode(), self._token.encode()):
            return "the page has not the token of this run: open the address that lossmask printed"
        kind = request.headers.get("content-type", "").partition(";")[0].strip()
        return None if kind == "application/json" else "questions are application/json"

    def _is_here(self, host: str) -> bool:
        """Return whether a Host header names this machine; an address cannot be rebound."""
        found = _HOST.fullmatch(host.lower())
        if found is None:
            return False
        name = found[1].strip("[]")
        return name in self._names or is_loopback(name) or (self._is_remote and _is_address(name))


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def is_loopback(host: str) -> bool:
    """Return whether a server on this address is reached from this machine only."""
    return host == "localhost" or (_is_address(host) and ipaddress.ip_address(host).is_loopback)


async def _body(request: Request) -> Mapping[str, Any]:
    """Read a question.

    Raises:
        InputError: It is too long, or not an object in JSON.
    """
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > _LARGEST:
            raise InputError(
                f"a question of more than {_LARGEST >> 20} MiB: the row is too long for the page",
                reason="bad_request",
            )
    try:
        value = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise InputError(f"the question is not JSON: {error}", reason="bad_request") from error
    if not isinstance(value, dict):
        raise InputError("the question is no object", reason="bad_request")
    return value


def _asset(name: str) -> Callable[[Request], Response]:
    """Return what answers with a file of ``assets/web``, read once."""
    content = (files("lossmask") / "assets" / "web" / name).read_bytes()
    kind = _TYPES[name.rpartition(".")[2]]

    def asset(request: Request) -> Response:
        return Response(content, media_type=kind)

    return asset


def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, LossmaskError)
    return JSONResponse({"reason": error.reason, "detail": error.detail}, status_code=400)
