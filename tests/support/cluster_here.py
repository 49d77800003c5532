"""As much of Ray as a build uses, in this process: its actors are real, and their calls run in threads."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future
from concurrent.futures import wait as wait_for
from contextlib import contextmanager
from functools import partial
from threading import Thread
from typing import Any

import pytest
from support.fake_ray import RayError, RayTaskError


class Method:
    """Of an actor: each call is a thread, for some wait until others have come to their end."""

    def __init__(self, method: Callable[..., Any]) -> None:
        self._method = method

    def options(self, **_: Any) -> Method:
        return self

    def remote(self, *arguments: Any) -> Future[Any]:
        answer = Future[Any]()
        Thread(target=self._answer, args=(answer, arguments), daemon=True).start()
        return answer

    def _answer(self, answer: Future[Any], arguments: tuple[Any, ...]) -> None:
        try:
            found = self._method(*arguments)
            answer.set_result(asyncio.run(found) if inspect.iscoroutine(found) else found)
        except BaseException as error:
            answer.set_exception(RayTaskError(error))


class Actor:
    """What a driver has of one."""

    def __init__(self, own: Any) -> None:
        self._own = own

    def __getattr__(self, name: str) -> Method:
        return Method(getattr(self._own, name))


class Class:
    """What actors are made of."""

    def __init__(self, kind: type) -> None:
        self._kind = kind

    def options(self, **_: Any) -> Class:
        return self

    def remote(self, *arguments: Any) -> Actor:
        return Actor(self._kind(*arguments))


class ClusterHere:
    """The module, connected to a cluster of one node with a core."""

    class exceptions:
        RayError = RayError
        RayTaskError = RayTaskError

    def nodes(self) -> list[dict[str, Any]]:
        return [{"Alive": True, "Resources": {"CPU": 1.0}}]

    def remote(self, kind: type) -> Class:
        return Class(kind)

    def wait(
        self, answers: list[Future[Any]], num_returns: int = 1, timeout: float | None = None
    ) -> tuple[list[Future[Any]], list[Future[Any]]]:
        done = wait_for(answers, timeout, FIRST_COMPLETED).done
        first = [one for one in answers if one in done][:num_returns]
        return first, [one for one in answers if one not in first]

    def get(self, answer: Future[Any]) -> Any:
        return answer.result()

    def kill(self, actor: Actor, no_restart: bool) -> None:
        """It builds no more, and its threads end."""
        node = actor._own
        if node._serving:
            object.__setattr__(node._opened, "builder", _gone)
            node._given.put(None)
            node._serving.join()


def _gone(*_: object) -> None:
    raise RayError("the actor is gone")


@contextmanager
def _connected(ray: ClusterHere, address: str | None) -> Iterator[ClusterHere]:
    yield ray


def install(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on `engine="ray"` finds this cluster."""
    monkeypatch.setattr("condprep.building.on_ray.connected", partial(_connected, ClusterHere()))
