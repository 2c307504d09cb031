"""The local web server of `wm-env play`: one static page and one WebSocket, on the loopback interface only.

Page to server: `{"do": command, ...}` as in `Session.handle`. Server to page, after every step and command:
`{"facts": {...}, "frames": [PNG, ...], "twin": [...] | null, "futures": [...] | null, "fps": number}`,
pictures in base64, or `{"error": text}`. Every page plays a session of its own; one that names it, as in
`/play?walk=KEY`, finds it as it was when it comes back (`Lobby`). Needs the extra `web`.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import errno
import io
import itertools
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import numpy as np
from PIL import Image

from wm_env.play.lobby import KEY, Lobby, Seat
from wm_env.play.memory import give_back
from wm_env.play.messages import MAX_MESSAGE, read_message
from wm_env.play.session import PlaySettings, Session, View

try:
    import uvicorn
    from starlette.applications import Starlette
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware
    from starlette.responses import FileResponse
    from starlette.routing import Route, WebSocketRoute
    from starlette.websockets import WebSocket, WebSocketDisconnect
except ImportError as error:
    raise ImportError("wm_env.play.web needs a web server: pip install 'wm-env[web]'") from error

HOST = "127.0.0.1"
LOCAL = ("127.0.0.1", "localhost")
PAGE = Path(__file__).parent / "page" / "index.html"
FOREIGN = 1008  # WebSocket close code: policy violation
_T = TypeVar("_T")
ELSEWHERE = 4001  # our own: the walk goes on in another tab
CROWDED, FAILED = 1013, 1011  # try again later; something went wrong here
MOST_GUESTS = 8  # pages that play at a time; each holds two worlds' states and, while it records, its frames


def create_app(settings: PlaySettings) -> Starlette:
    """Return the application; requests that were not addressed to this machine's loopback are refused."""
    lobby = Lobby(lambda: Session(settings), give_back)
    guests: Counter[str] = Counter()  # connections by key
    numbers = itertools.count()

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        yield
        await lobby.close()

    async def page(request: Any) -> FileResponse:
        return FileResponse(PAGE, headers={"Cache-Control": "no-store"})

    async def stage(websocket: WebSocket) -> None:
        if not is_ours(websocket.headers.get("origin"), websocket.headers.get("host", "")):
            await websocket.close(FOREIGN)  # another site's page must not play here
            return
        key = websocket.query_params.get("walk", "")
        if key and not KEY.fullmatch(key):
            await websocket.close(FOREIGN)
            return
        await websocket.accept()
        guest = key or str(next(numbers))  # a reload is the guest that it was
        if guest not in guests and len(guests) >= MOST_GUESTS:
            await _refuse(websocket, f"{MOST_GUESTS} pages play already; close one", CROWDED)
            return
        guests[guest] += 1
        try:
            await _visit(websocket, lobby, key)
        finally:
            guests[guest] -= 1
            if not guests[guest]:
                del guests[guest]
            await asyncio.to_thread(give_back)

    return Starlette(
        lifespan=lifespan,
        routes=[Route("/", page), WebSocketRoute("/play", stage)],
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=list(LOCAL))],
    )


def is_ours(origin: str | None, host: str) -> bool:
    """Return whether a page of `origin` may play on the server `host`: our own page, or no page at all."""
    if origin is None:
        return True
    try:
        found = urlsplit(origin)
        return found.scheme == "http" and found.hostname in LOCAL and found.netloc == host
    except ValueError:  # such as "http://["
        return False


def listen_on(port: int) -> socket.socket:
    """Return a socket that listens on the loopback interface; port 0 takes a free one.

    Raises `OSError` in one sentence where the port is in use or not this user's to take.
    """
    try:
        return socket.create_server((HOST, port))
    except OSError as error:
        why = {
            errno.EADDRINUSE: "is in use, perhaps by another `wm-env play`",
            errno.EACCES: "is not yours to take (below 1024)",
        }.get(error.errno or 0, f"cannot be taken ({error.strerror})")
        raise OSError(f"port {port} {why}; give another by --port, or --port 0 for a free one") from error


def serve(settings: PlaySettings, listening: socket.socket, ready: Callable[[str], None]) -> None:
    """Serve until interrupted; `ready` is told the page's address once it answers."""
    app = create_app(settings)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", ws_max_size=MAX_MESSAGE))

    async def run() -> None:
        serving = asyncio.create_task(server.serve(sockets=[listening]))
        while not server.started and not serving.done():
            await asyncio.sleep(0.02)
        if server.started:
            ready(f"http://{HOST}:{listening.getsockname()[1]}/")
        await serving

    asyncio.run(run())


async def _visit(websocket: WebSocket, lobby: Lobby, key: str) -> None:
    """Let a page play the walk of its key until it leaves."""
    try:
        seat = await lobby.enter(key)
    except (ValueError, OSError) as error:
        await _refuse(websocket, str(error), FAILED)
        return
    try:
        await _play(websocket, seat)
    finally:
        await lobby.leave(seat)


async def _play(websocket: WebSocket, seat: Seat) -> None:
    """Step the session at the pace of its frames, and do what the page asks in between."""
    session = seat.session
    turn = asyncio.Lock()  # the session is in one thread at a time
    wake = asyncio.Event()
    try:
        await websocket.send_json(_message(session.view(), 0.0))
    except WebSocketDisconnect:  # the page has gone while its world was made
        return

    async def listen() -> None:
        while True:
            said = await websocket.receive()
            if said["type"] == "websocket.disconnect":
                raise WebSocketDisconnect(said.get("code", 1006))
            async with turn:
                try:
                    asked = read_message(said.get("text"))
                    await _whole(session.handle, asked)
                    if asked["do"] != "keys":
                        await websocket.send_json(_message(session.view(), 0.0))
                except (ValueError, OSError) as error:
                    await websocket.send_json({"error": str(error)})
            wake.set()

    async def run() -> None:
        while True:
            if not session.running:
                wake.clear()
                await wake.wait()
                continue
            started = time.perf_counter()
            async with turn:
                if not session.running:
                    continue
                try:
                    view = await _whole(session.advance)
                except (ValueError, OSError) as error:  # a film that has grown too long and a full disk
                    session.paused = True
                    await websocket.send_json({"error": str(error)})
                    continue
            left = session.seconds_per_step - (time.perf_counter() - started)
            await websocket.send_json(
                _message(
                    view, len(view.frames) / max(session.seconds_per_step, time.perf_counter() - started)
                )
            )
            await asyncio.sleep(max(0.0, left))

    listening, running = asyncio.create_task(listen()), asyncio.create_task(run())
    tasks = (listening, running, asyncio.create_task(seat.wanted.wait()))
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        with contextlib.suppress(WebSocketDisconnect):
            # when the page has gone, what the last frame met on its way there is no matter
            if listening.done() or running.done():
                (listening if listening.done() else running).result()
            else:
                await websocket.close(ELSEWHERE)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _refuse(websocket: WebSocket, why: str, code: int) -> None:
    """Tell a page that it cannot play, and close its connection."""
    with contextlib.suppress(WebSocketDisconnect, RuntimeError):  # it has gone
        await websocket.send_json({"error": why})
        await websocket.close(code)


async def _whole(call: Callable[..., _T], *arguments: Any) -> _T:
    """Return what a call in a thread returns; one that is cancelled ends first, for it has the session."""
    calling = asyncio.ensure_future(asyncio.to_thread(call, *arguments))
    try:
        return await asyncio.shield(calling)
    except asyncio.CancelledError:
        await asyncio.wait([calling])
        raise


def _message(view: View, fps: float) -> dict[str, Any]:
    return {
        "facts": view.facts,
        "frames": [_png(frame) for frame in view.frames],
        "twin": None if view.twin is None else [_png(frame) for frame in view.twin],
        "futures": None if view.futures is None else [_png(frame) for frame in view.futures],
        "fps": fps,
    }


def _png(frame: np.ndarray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, "PNG", compress_level=1)
    return base64.b64encode(buffer.getvalue()).decode()
