"""The server of ``costgraph explore``: on this computer alone, for who started it alone.

What a page in the same browser could do to a server on ``localhost`` is met as follows.

* It listens on the loopback address only, and answers only requests for that: a name that
  was rebound to 127.0.0.1 is refused by its ``Host``.
* Everything needs the token of this run: in the address that was opened, then as a cookie
  that no script reads (``HttpOnly``) and no other site sends (``SameSite=Strict``).
* What a browser says comes from elsewhere (``Sec-Fetch-Site``, ``Origin``) is refused.
* Requests name shipped models, devices and passes; none is a path (``outside.confined``).
  Files that are dropped arrive as bytes, up to stated sizes, and stay in memory.

Each kind of part is derived by a thread of its own, the latest request first: another tab or a
changed mind waits for one derivation at most, and numbers never for a printer.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import itertools
import queue
import secrets
import socket
import sys
import threading
import webbrowser
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import fields
from functools import partial
from importlib import import_module
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from costgraph.errors import CostgraphError, InputError
from costgraph.files.outside import size_text
from costgraph.models import families
from costgraph.progress import listening
from costgraph.showing.explorer import catalog, page
from costgraph.showing.explorer.catalog import Start
from costgraph.showing.explorer.dropped import Dropped, largest
from costgraph.showing.explorer.parts import KINDS, Asked, Source, Variants, part, received
from costgraph.showing.explorer.reading import pipeline_value

HOST = "127.0.0.1"
#: What a browser may call this computer.
NAMES = ("127.0.0.1", "localhost", "[::1]")
#: Characters of one text in a request.
LONGEST = 16_000
#: Parts that are kept, in characters.
KEPT = 64 * 2**20
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": page.POLICY.format(own="'self'", connect="'self'")
    + "; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
REFUSED = "This page belongs to another run. Open the address that the terminal shows.\n"
Answer = Callable[[Request], Awaitable[Response]]


class Worker:
    """One thread for what takes time, the latest first.

    It ends with the process, also in the midst of a derivation.
    """

    def __init__(self) -> None:
        self._waiting: queue.PriorityQueue[tuple[int, Any, Any, Any]] = queue.PriorityQueue()
        self._turn = itertools.count()
        threading.Thread(target=self._run, name="costgraph-explorer", daemon=True).start()

    async def result(self, work: Callable[[], Any]) -> Any:
        """What ``work`` returns or raises."""
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        self._waiting.put((-next(self._turn), work, loop, future))
        try:
            return await future
        except asyncio.CancelledError:
            raise Stopped from None

    def spare(self, work: Callable[[], Any]) -> None:
        """Does ``work`` when nothing else is to be done; nobody waits for it."""
        self._waiting.put((next(self._turn), work, None, None))

    def _run(self) -> None:
        while True:
            _, work, loop, future = self._waiting.get()
            if future is not None and future.cancelled():
                continue
            try:
                found, problem = work(), None
            except Exception as error:
                found, problem = None, error
            if future is None:
                continue
            with contextlib.suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(_settle, future, found, problem)


class Stopped(Exception):
    """The server was stopped meanwhile."""


def _settle(future: asyncio.Future[Any], found: Any, problem: Exception | None) -> None:
    if future.cancelled():
        return
    if problem is None:
        future.set_result(found)
    else:
        future.set_exception(problem)


class Parts:
    """Parts by their keys; those used last are kept."""

    def __init__(self, dropped: Dropped) -> None:
        self._dropped = dropped
        self._variants = Variants()
        self._kept: OrderedDict[Asked, str] = OrderedDict()
        self._size = 0
        self._far: dict[Asked, tuple[int, int]] = {}
        self._lock = threading.Lock()

    def get(self, asked: Asked) -> str:
        """The script of a part, derived unless it is known."""
        with self._lock:
            if asked in self._kept:
                self._kept.move_to_end(asked)
                return self._kept[asked]
        try:
            with listening(lambda _, done, total: self._far.update({asked: (done, total)})):
                made = part(asked, self._dropped, self._variants)
        finally:
            self._far.pop(asked, None)
        with self._lock:
            self._size += len(made) - len(self._kept.get(asked, ""))
            self._kept[asked] = made
            while self._size > KEPT and len(self._kept) > 1:
                self._size -= len(self._kept.popitem(last=False)[1])
        return made

    def far(self, asked: Asked) -> tuple[int, int]:
        """How far a part is: how much is done, and of how much; 0 of 0 where that is not known."""
        return self._far.get(asked, (0, 0))


def application(token: str, start: Start, given: Source | None = None) -> Starlette:
    """The application.

    Args:
        token: what every request must show.
        start: where the page starts; it is derived while the browser opens.
        given: the model that it starts with, where that is no shipped one.
    """
    workers, dropped = {kind: Worker() for kind in KINDS}, Dropped()
    if given is not None:
        dropped.keep(start.model, given)
    parts = Parts(dropped)
    for on, passes in itertools.product(start.on, start.passes):
        workers["numbers"].spare(partial(parts.get, Asked("numbers", start.model, on, passes)))
    for file in families.FILES:  # one by one: a request waits for one at most, and reads none
        workers["numbers"].spare(partial(import_module, f"{families.__name__}.{file}"))
    known = catalog.everything()
    texts = {"index": page.index(True), "script": page.script(), "style": page.style()}

    async def index(request: Request) -> Response:
        answer = Response(texts["index"], media_type="text/html")
        answer.set_cookie(_cookie(request), token, httponly=True, samesite="strict", path="/")
        return answer

    async def script(request: Request) -> Response:
        return Response(texts["script"], media_type="text/javascript")

    async def style(request: Request) -> Response:
        return Response(texts["style"], media_type="text/css")

    async def choices(request: Request) -> Response:
        value = {**known, "start": catalog.start_value(start)}
        return Response(received("catalog", value), media_type="text/javascript")

    async def one(request: Request) -> Response:
        asked = _asked(request)
        if asked is None:
            return PlainTextResponse("too long\n", 414)
        worker = workers.get(asked.kind, workers["numbers"])
        made = await worker.result(lambda: parts.get(asked))
        return Response(made, media_type="text/javascript")

    async def far(request: Request) -> Response:
        asked = _asked(request)
        done, total = (0, 0) if asked is None else parts.far(asked)
        return JSONResponse({"done": done, "total": total})

    async def pipeline(request: Request) -> Response:
        text = request.query_params.get("text", "")[: LONGEST + 1]
        return JSONResponse(pipeline_value(text))

    async def files(request: Request) -> Response:
        name, beside = (request.query_params.get(key, "") for key in ("name", "beside"))
        try:
            data = await _body(request, largest(name))
            model = await workers["numbers"].result(lambda: dropped.add(name, data, beside))
        except CostgraphError as error:
            return JSONResponse({"error": str(error)}, 400)
        return JSONResponse({"model": model})

    routes = [
        Route("/", index),
        Route("/explorer.js", script),
        Route("/explorer.css", style),
        Route("/catalog.js", choices),
        Route("/part.js", one),
        Route("/far", far),
        Route("/pipeline", pipeline),
        Route("/files", files, methods=["POST"]),
        Route("/favicon.ico", lambda _: Response(status_code=204)),
    ]
    app = Starlette(routes=routes, exception_handlers={Stopped: _stopped, Exception: _broken})
    app.add_middleware(Guard, token=token)
    return app


def _asked(request: Request) -> Asked | None:
    """The part that a request names; nothing where a text of it is too long."""
    given = {f.name: request.query_params.get(f.name, "") for f in fields(Asked)}
    return None if any(len(text) > LONGEST for text in given.values()) else Asked(**given)


async def _stopped(request: Request, error: Exception) -> Response:
    return PlainTextResponse("stopped\n", 503)


async def _broken(request: Request, error: Exception) -> Response:
    print(f"costgraph: failed: {type(error).__name__}: {error}", file=sys.stderr)
    return PlainTextResponse(f"costgraph failed: {type(error).__name__}\n", 500, HEADERS)


async def _body(request: Request, most: int) -> bytes:
    """The body of a request, refused as soon as it is larger than ``most`` bytes.

    Raises:
        InputError: it is.
    """
    stated = request.headers.get("content-length", "0")
    found = bytearray()
    if not stated.isdigit() or int(stated) > most:
        raise InputError(f"the file is larger than {size_text(most)}")
    try:
        async for piece in request.stream():
            found += piece
            if len(found) > most:
                raise InputError(f"the file is larger than {size_text(most)}")
    except ClientDisconnect:
        raise InputError("the file did not arrive") from None
    return bytes(found)


def _cookie(request: Request) -> str:
    """Cookies know no ports: each server has a name of its own."""
    server = request.scope.get("server") or ("", 0)
    return f"costgraph-{server[1]}"


class Guard:
    """Refuses what does not come from the page of this run, before anything else sees it."""

    def __init__(self, app: Any, token: str) -> None:
        self._app, self._token = app, token

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return
        answer = self._refusal(Request(scope))
        if answer is not None:
            await answer(scope, receive, send)
            return

        async def sent(message: Any) -> None:
            if message["type"] == "http.response.start":
                added = [(k.lower().encode(), v.encode()) for k, v in HEADERS.items()]
                kept = [h for h in message.get("headers", ()) if h[0] not in dict(added)]
                message = {**message, "headers": [*kept, *added]}
            await send(message)

        await self._app(scope, receive, sent)

    def _refusal(self, request: Request) -> Response | None:
        host = request.headers.get("host", "")
        if host.rpartition(":")[0] not in NAMES and host not in NAMES:
            return PlainTextResponse("Only for this computer.\n", 421, HEADERS)
        opened = request.url.path == "/" and request.method == "GET"
        given = request.query_params.get("token") if opened else None
        if given is not None and self._is(given):
            return None
        site = request.headers.get("sec-fetch-site", "none")
        if site not in ("same-origin", "none"):
            return PlainTextResponse("Not for other sites.\n", 403, HEADERS)
        if request.method != "GET" and request.headers.get("origin") != f"http://{host}":
            return PlainTextResponse("Not for other sites.\n", 403, HEADERS)
        if not self._is(request.cookies.get(_cookie(request), "")):
            return PlainTextResponse(REFUSED, 403, HEADERS)
        return None

    def _is(self, text: str) -> bool:
        return hmac.compare_digest(text.encode(), self._token.encode())


def serve(
    start: Start,
    given: Source | None = None,
    port: int = 0,
    browser: bool = True,
    said: Callable[[str], None] = print,
) -> None:
    """Serves until it is interrupted.

    Args:
        start: where the page starts.
        given: the model that it starts with, where that is no shipped one.
        port: to listen at; 0 for a free one.
        browser: whether to open the page.
        said: is told the address.

    Raises:
        InputError: the port is taken.
    """
    token = secrets.token_urlsafe(32)
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((HOST, port))
        listener.listen()  # so that nobody who is told the address is refused
    except (OSError, OverflowError) as error:
        listener.close()
        raise InputError(f"cannot listen at port {port}: {error}") from None
    address = f"http://{HOST}:{listener.getsockname()[1]}/?token={token}"
    config = uvicorn.Config(
        application(token, start, given),
        log_level="critical",
        access_log=False,
        lifespan="off",
        server_header=False,
        timeout_graceful_shutdown=1,
        limit_concurrency=64,
    )
    said(address)
    if browser:
        threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()
    with contextlib.closing(listener), contextlib.suppress(KeyboardInterrupt):
        uvicorn.Server(config).run(sockets=[listener])  # which an interruption ends
