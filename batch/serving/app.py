"""The server: OpenAI's chat completions over HTTP, lists of videos, and pages with a box to ask.

Nothing is reached by a path: whatever a request names is looked up among the videos that there
are. Source of the checks of Host and Origin: without them any page that a browser shows could ask
a server of its own machine (DNS rebinding, CSRF).
"""

import asyncio
import base64
import binascii
import hmac
import json
import re
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, urlsplit

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from batch.answering import Answer
from batch.errors import BatchError
from batch.serving import desk as desks
from batch.serving import pages
from batch.serving.chat import (
    MOST_CHARACTERS,
    Completion,
    RequestError,
    error_body,
    parse_request,
)
from batch.serving.desk import Desk, FullError
from batch.serving.library import Library, Video
from cachefmt import CacheFileError
from jobs.errors import JobError

MOST_BODY_BYTES = 1_000_000
MOST_LISTED = 1_000
_LOOK_S = 1.0
"""How often it is looked whether a client that waits for a whole answer is still there."""

_BODY_S = 30.0
"""A body must have come by then."""

Told = str | Answer | Exception


@dataclass(frozen=True, kw_only=True)
class ServeSettings:
    """What a server allows.

    - hosts: names by which it may be called; None: any, as a token is asked for.
    - most_tokens: of an answer.
    """

    token: str | None
    hosts: frozenset[str] | None
    most_tokens: int


def make_app(library: Library, desk: Desk, settings: ServeSettings) -> Starlette:
    """The application, for any ASGI server; the desk must be at work."""
    server = _Server(library, desk, settings)
    return Starlette(
        routes=[
            Route("/", server.home),
            Route("/videos/{id}", server.video),
            Route("/videos/{id}", server.ask, methods=["POST"]),
            Route("/v1/models", server.models),
            Route("/v1/chat/completions", server.complete, methods=["POST"]),
        ],
        middleware=[Middleware(_Guard, settings)],
        exception_handlers={
            RequestError: _refused,
            FullError: _full,
            **dict.fromkeys((BatchError, CacheFileError, JobError), server.broken),
            ClientDisconnect: _left,
            TimeoutError: _late,
            404: _http_error,
            405: _http_error,
        },
    )


class _Server:
    def __init__(self, library: Library, desk: Desk, settings: ServeSettings) -> None:
        self._library = library
        self._desk = desk
        self._settings = settings
        own = re.escape(str(library.folder))  # it may hold spaces
        self._folders = re.compile(rf"(?<![\w./~-])(?:{own}/|/(?:[^\s/]+/)+)")

    async def complete(self, request: Request) -> Response:
        """An answer as OpenAI has it, whole or as server-sent events."""
        if _media_type(request) != "application/json":
            raise RequestError("content-type: expected application/json")
        asked = parse_request(await _body(request))
        video = await self._named(asked.video)
        completion = Completion(video.id)
        heard = self._submit(video, asked.turns, asked.limit)
        first = await heard.next(request)
        if isinstance(first, Exception):
            return self._failed(first)
        if asked.streams:
            chunks = self._chunks(heard, first, completion, tells_usage=asked.tells_usage)
            return StreamingResponse(chunks, media_type="text/event-stream", headers=_NO_STORE)
        told: Told = first
        while isinstance(told, str):
            told = await heard.next(request)
        if isinstance(told, Exception):
            return self._failed(told)
        return _json(completion.whole(told, heard.request.prompt_tokens))

    async def models(self, request: Request) -> Response:
        """Videos as OpenAI lists models: a client chooses one as it chooses a model.

        So many behind the one that the parameter `after` names.
        """
        await asyncio.to_thread(self._library.refresh)
        videos, after = list(self._library), request.query_params.get("after")
        if after is not None:
            ids = [video.id for video in videos]
            if after not in ids:
                raise RequestError(f"after: no video {after[:100]!r} here", "after")
            videos = videos[ids.index(after) + 1 :]
        some = [
            {
                "id": video.id,
                "object": "model",
                "created": 0,
                "owned_by": "sali-cache",
                "name": video.name,
                "page": pages.address(video),
            }
            for video in videos[:MOST_LISTED]
        ]
        return _json({"object": "list", "data": some, "has_more": len(videos) > MOST_LISTED})

    async def home(self, request: Request) -> Response:
        await asyncio.to_thread(self._library.refresh)
        return await self._page(pages.of_all, list(self._library))

    async def video(self, request: Request) -> Response:
        video = await self._named(request.path_params["id"])
        return await self._page(pages.of_video, video)

    async def ask(self, request: Request) -> Response:
        """The box of a page: the answer, and what it rests on."""
        video = await self._named(request.path_params["id"])
        if _media_type(request) != "application/x-www-form-urlencoded":
            raise RequestError("content-type: expected a form")
        try:
            fields = parse_qs((await _body(request)).decode(), max_num_fields=10)
        except (UnicodeError, ValueError) as error:
            raise RequestError(f"the form cannot be read: {error}") from error
        question = fields.get("question", [""])[0]
        if len(question) > MOST_CHARACTERS:
            raise RequestError(f"the question has more than {MOST_CHARACTERS:,} characters")
        heard = self._submit(video, (question,), None)
        told: Told = ""
        while isinstance(told, str):
            told = await heard.next(request)
        if isinstance(told, Exception):
            return self._failed(told)
        return await self._page(pages.of_answers, video, [told])

    async def _named(self, id: str) -> Video:
        video = self._library.get(id)
        if video is None:
            await asyncio.to_thread(self._library.refresh)  # a run may have made it since
            video = self._library.get(id)
        if video is None:
            raise RequestError(f"no video {id[:100]!r} here; GET /v1/models lists them", "model")
        return video

    def _submit(self, video: Video, turns: tuple[str, ...], limit: int | None) -> "_Heard":
        most = self._settings.most_tokens
        heard = _Heard()
        heard.request = desks.Request(
            video=video,
            turns=turns,
            limit=most if limit is None else min(limit, most),
            tell=heard.tell,
        )
        self._desk.submit(heard.request)
        return heard

    async def _chunks(
        self, heard: "_Heard", told: Told, completion: Completion, *, tells_usage: bool
    ) -> AsyncIterator[str]:
        """The events of a stream, whose first words are there."""
        try:
            yield _event(completion.first())
            while isinstance(told, str):
                yield _event(completion.more(told))
                told = await heard.next()
            if isinstance(told, Exception):
                yield _event(self._body_of(told)[1])
                return
            yield _event(completion.last(told))
            if tells_usage:
                yield _event(completion.usage(told, heard.request.prompt_tokens))
            yield "data: [DONE]\n\n"
        finally:
            heard.leave()

    async def _page(self, make: Callable[..., str], *values: object) -> Response:
        """A page, made beside the event loop: it reads pictures."""
        try:
            return HTMLResponse(await asyncio.to_thread(make, *values), headers=_PAGE)
        except (BatchError, CacheFileError) as error:
            return self._failed(error)

    async def broken(self, request: Request, error: Exception) -> Response:
        """The folder of caches cannot be read any more."""
        return _json(error_body(self._said(error), kind="server_error"), 503)

    def _failed(self, error: Exception) -> Response:
        status, body = self._body_of(error)
        return _json(body, status)

    def _body_of(self, error: Exception) -> tuple[int, dict[str, Any]]:
        """Status and body of what the model's thread told of a request."""
        if isinstance(error, BatchError | CacheFileError):
            return 400, error_body(self._said(error), kind="invalid_request_error")
        return 500, error_body("the server failed; its log says why", kind="server_error")

    def _said(self, error: Exception) -> str:
        """What is wrong, without the folders of this machine, and commands that are for it."""
        return self._folders.sub("", str(error).partition("\n")[0])


class _Heard:
    """What the model's thread tells of a request, for the event loop."""

    request: desks.Request

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._told: asyncio.Queue[Told] = asyncio.Queue()

    def tell(self, more: Told) -> None:
        with suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._told.put_nowait, more)

    def leave(self) -> None:
        self.request.is_gone.set()

    async def next(self, request: Request | None = None) -> Told:
        """What is told next; a ClientDisconnect if the client of the request has gone meanwhile."""
        try:
            while True:
                with suppress(TimeoutError):
                    return await asyncio.wait_for(self._told.get(), _LOOK_S)
                if request is not None and await request.is_disconnected():
                    raise ClientDisconnect
        except BaseException:  # also when the server cancels what it waits for
            self.leave()
            raise


def _event(value: dict[str, Any]) -> str:
    return f"data: {json.dumps(value, ensure_ascii=False)}\n\n"


async def _body(request: Request) -> bytes:
    """The whole body, if it is not too large."""
    found = bytearray()
    async with asyncio.timeout(_BODY_S):
        async for chunk in request.stream():
            found += chunk
            if len(found) > MOST_BODY_BYTES:
                raise RequestError(f"the body has more than {MOST_BODY_BYTES:,} bytes")
    return bytes(found)


_NO_STORE = {"cache-control": "no-store"}
_PAGE = {**_NO_STORE, "x-content-type-options": "nosniff", "referrer-policy": "same-origin"}


def _json(value: dict[str, Any], status: int = 200) -> Response:
    return JSONResponse(value, status, headers=_NO_STORE)


async def _refused(request: Request, error: Exception) -> Response:
    param = error.param if isinstance(error, RequestError) else None
    status = 404 if param == "model" and str(error).startswith("no video") else 400
    return _json(error_body(str(error), kind="invalid_request_error", param=param), status)


async def _full(request: Request, error: Exception) -> Response:
    return _json(error_body(str(error), kind="rate_limit_error"), 429)


async def _left(request: Request, error: Exception) -> Response:
    return Response(status_code=499)  # nobody reads it; nginx' number for a client that left


async def _late(request: Request, error: Exception) -> Response:
    return _json(error_body("the body came too slowly", kind="invalid_request_error"), 408)


async def _http_error(request: Request, error: Exception) -> Response:
    status = getattr(error, "status_code", 404)
    return _json(error_body(str(error), kind="invalid_request_error"), status)


def _media_type(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


class _Guard:
    """Lets through who calls the server by its name, from its own pages, with its token."""

    def __init__(self, app: ASGIApp, settings: ServeSettings) -> None:
        self._app = app
        self._settings = settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = self._refusal(Request(scope)) if scope["type"] == "http" else None
        await (refusal or self._app)(scope, receive, send)

    def _refusal(self, request: Request) -> Response | None:
        hosts, token = self._settings.hosts, self._settings.token
        host, origin = request.headers.get("host", ""), request.headers.get("origin")
        if hosts is not None and _name_of(host) not in hosts:
            return _json(error_body(f"host: got {host[:100]!r}", kind="invalid_request_error"), 421)
        if origin is not None and origin.partition("://")[2] != host:
            return _json(error_body("origin: another site's", kind="invalid_request_error"), 403)
        if token is None or _has_token(request, token):
            return None
        response = _json(error_body("a token is needed", kind="authentication_error"), 401)
        response.headers["www-authenticate"] = 'Basic realm="sali-cache", charset="UTF-8"'
        return response


def _name_of(host: str) -> str:
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _has_token(request: Request, token: str) -> bool:
    """Whether it is there as a bearer's, or as a password that a browser was told."""
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "basic":
        try:
            given = base64.b64decode(given, validate=True).decode().partition(":")[2]
        except (binascii.Error, UnicodeError):
            return False
    elif scheme.lower() != "bearer":
        return False
    return hmac.compare_digest(given.strip().encode(), token.encode())
