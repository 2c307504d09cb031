"""Sessions wait for their pages: a while, not too many, and one connection at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from wm_env.play import lobby as lobbies
from wm_env.play.lobby import MOST_KEPT, Lobby


class Session:
    """Of which only this is of interest."""

    def __init__(self) -> None:
        self.closed, self.greeted = False, 0

    def greet(self) -> None:
        self.greeted += 1

    def close(self) -> None:
        assert not self.closed
        self.closed = True


def in_lobby(story: Callable[[Lobby], Coroutine[Any, Any, None]]) -> None:
    async def told() -> None:
        await asyncio.wait_for(story(Lobby(Session)), 10)  # type: ignore[arg-type]

    asyncio.run(told())


def test_a_session_waits_for_its_key_and_no_longer_than_it_should(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lobbies, "KEPT_SECONDS", 0.05)

    async def story(lobby: Lobby) -> None:
        seat = await lobby.enter("a")
        session: Any = seat.session
        await lobby.leave(seat)
        seat = await lobby.enter("a")
        assert seat.session is session and session.greeted == 1
        await asyncio.sleep(0.1)
        assert not session.closed  # it is played
        await lobby.leave(seat)
        while not session.closed:
            await asyncio.sleep(0.01)
        assert (await lobby.enter("a")).session is not session

    in_lobby(story)


def test_a_session_without_a_key_ends_with_its_connection() -> None:
    async def story(lobby: Lobby) -> None:
        one, two = await lobby.enter(), await lobby.enter()
        assert one.session is not two.session
        await lobby.leave(one)
        assert one.session.closed and not two.session.closed  # type: ignore[attr-defined]

    in_lobby(story)


def test_of_too_many_waiting_sessions_the_oldest_ends() -> None:
    async def story(lobby: Lobby) -> None:
        seats = [await lobby.enter(f"key {i}") for i in range(MOST_KEPT + 1)]
        order = [seats[1], seats[0], *seats[2:]]
        for seat in order:
            await lobby.leave(seat)
        assert [seat.session.closed for seat in order] == [True] + [False] * MOST_KEPT  # type: ignore[attr-defined]
        await lobby.close()
        assert all(seat.session.closed for seat in seats)  # type: ignore[attr-defined]

    in_lobby(story)


def test_of_several_connections_with_one_key_the_last_plays() -> None:
    async def story(lobby: Lobby) -> None:
        seat = await lobby.enter("a")
        made = seat.session
        entering = [asyncio.create_task(lobby.enter("a")) for _ in range(2)]
        for later in entering:
            await seat.wanted.wait()
            await lobby.leave(seat)
            seat = await later
        assert seat.session is made and not seat.wanted.is_set()

    in_lobby(story)


def test_a_connection_that_gives_up_waiting_disturbs_nobody_afterwards() -> None:
    async def story(lobby: Lobby) -> None:
        seat = await lobby.enter("a")
        entering = asyncio.create_task(lobby.enter("a"))
        await seat.wanted.wait()
        entering.cancel()
        await asyncio.gather(entering, return_exceptions=True)
        assert not seat.wanted.is_set()
        await lobby.leave(seat)
        assert (await lobby.enter("a")).session is seat.session

    in_lobby(story)


def test_a_session_that_cannot_be_made_leaves_the_key_free() -> None:
    tries: list[int] = []

    def make() -> Any:
        tries.append(1)
        if len(tries) == 1:
            raise OSError("no memory")
        return Session()

    async def story() -> None:
        lobby = Lobby(make)
        with pytest.raises(OSError, match="no memory"):
            await lobby.enter("a")
        await lobby.leave(await lobby.enter("a"))

    asyncio.run(story())
