"""The sessions of the page's visitors, by the key that a page keeps: a reload or a lost connection ends none.

    seat = await lobby.enter(key)      the session of that key as it was left, or a new one
    await lobby.leave(seat)            kept for a while, in case the page comes back

One connection plays a session at a time: a second one with the same key (a duplicated tab) asks the first to
leave (`Seat.wanted`) and waits until it has.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable

from wm_env.play.session import Session

KEPT_SECONDS = 1800.0  # after the page has gone
MOST_KEPT = 4  # sessions without a page; a session holds its worlds' state, and its moment's
KEY = re.compile(r"[0-9A-Za-z-]{8,64}")  # what a page calls its walk


class Seat:
    """A session and the connection that plays it. wanted: set while another connection waits for it."""

    def __init__(self, key: str) -> None:
        self.key = key
        self.wanted = asyncio.Event()
        self._session: Session | None = None
        self._taken = asyncio.Lock()
        self._waiting = 0
        self._end: asyncio.Task[None] | None = None

    @property
    def session(self) -> Session:
        """What is played."""
        assert self._session is not None  # `Lobby.enter` has made it
        return self._session


class Lobby:
    """Sessions by key, made by `make`; to be used in one event loop."""

    def __init__(self, make: Callable[[], Session], ended: Callable[[], None] = lambda: None) -> None:
        """ended: called in a thread after a session has ended."""
        self._make, self._ended = make, ended
        self._seats: dict[str, Seat] = {}

    async def enter(self, key: str = "") -> Seat:
        """Return the seat of a key, taken; without one, a session that ends with its connection.

        Raises what making a session raises; the seat is free then.
        """
        seat = self._seats.setdefault(key, Seat(key)) if key else Seat("")
        seat._waiting += 1
        seat.wanted.set()
        try:
            await seat._taken.acquire()
        finally:
            seat._waiting -= 1
            if not seat._waiting:
                seat.wanted.clear()
        if seat._end is not None:
            seat._end.cancel()
            seat._end = None
        try:
            if seat._session is None:
                seat._session = await asyncio.to_thread(self._make)
            else:
                seat._session.greet()
        except BaseException:
            seat._taken.release()
            self._seats.pop(key, None)
            raise
        return seat

    async def leave(self, seat: Seat) -> None:
        """Give a seat back. Its session is kept for `KEPT_SECONDS`, the newest `MOST_KEPT` of such ones."""
        if seat._waiting:  # another connection goes on with it
            seat._taken.release()
            return
        if seat.key:
            seat._end = asyncio.create_task(self._end_later(seat))
            seat._taken.release()
            self._seats.pop(seat.key, None)
            self._seats[seat.key] = seat  # the newest at the end
            left = [each for each in self._seats.values() if each._end is not None]
            for oldest in left[: max(0, len(left) - MOST_KEPT)]:
                await self._end(oldest)
        else:
            await asyncio.to_thread(seat.session.close)

    async def close(self) -> None:
        """End the sessions that were kept; their films in progress are written."""
        for seat in [seat for seat in self._seats.values() if seat._end is not None]:
            await self._end(seat)

    async def _end_later(self, seat: Seat) -> None:
        await asyncio.sleep(KEPT_SECONDS)
        seat._end = None  # this task: it must not be cancelled while it closes
        await self._end(seat)

    async def _end(self, seat: Seat) -> None:
        if seat._end is not None:
            seat._end.cancel()
        self._seats.pop(seat.key, None)
        await asyncio.to_thread(seat.session.close)
        await asyncio.to_thread(self._ended)
