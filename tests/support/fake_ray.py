"""As much of Ray as a fleet uses, in one process: actors answer by a script, and nothing is waited for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from condprep.dataset.shards import Counts
from condprep.engines.ray_node import Look


class RayError(Exception):
    """Its actor is gone."""


class RayTaskError(RayError):
    """What a call raised on a node."""

    def __init__(self, cause: BaseException) -> None:
        super().__init__(str(cause))
        self.cause = cause


class Report:
    """What a node has loaded: versions."""

    def __init__(self, **versions: str) -> None:
        self.versions = versions

    def differences(self, other: Report) -> list[str]:
        return [
            f"{name}: {self.versions[name]!r} there, {other.versions[name]!r} here"
            for name in self.versions
            if self.versions[name] != other.versions[name]
        ]


class Actor:
    """The nth actor. `build` says what becomes of a shard: counts, or an exception that is raised."""

    def __init__(self, ray: FakeRay, number: int) -> None:
        self._ray, self._number, self.dead = ray, number, False

    def __getattr__(self, method: str) -> Any:
        return _Method(lambda *arguments: self._ray.call(self, method, arguments))


class _Method:
    def __init__(self, remote: Callable[..., Any]) -> None:
        self.remote = remote

    def options(self, **_: Any) -> _Method:
        return self


class FakeRay:
    """The module."""

    class exceptions:
        RayError = RayError
        RayTaskError = RayTaskError

    def __init__(
        self,
        build: Callable[[int, int], Counts | BaseException],
        look: Callable[[int], Look] = lambda _: Look.here(),
        report: Callable[[int], Any] = lambda _: Report(numpy="1"),
        cores: Sequence[int] = (1, 1),
    ) -> None:
        """build: of (actor, shard). look, report: of actors by number. cores: of each node."""
        self.build, self.look, self.report = build, look, report
        self.cores, self.actors, self.answers = cores, list[Actor](), dict[int, Any]()
        self.built: list[tuple[int, int]] = []
        self.killed: list[int] = []

    def nodes(self) -> list[dict[str, Any]]:
        return [{"Alive": True, "Resources": {"CPU": float(cores)}} for cores in self.cores]

    def remote(self, _: type) -> FakeRay:
        outer = self

        class Class:
            def options(self, **_: Any) -> Class:
                return self

            def remote(self, *_: Any) -> Actor:
                outer.actors.append(Actor(outer, len(outer.actors)))
                return outer.actors[-1]

        return Class()  # type: ignore[return-value]

    def call(self, actor: Actor, method: str, arguments: tuple[Any, ...]) -> int:
        """The reference of the answer, which is there at once."""
        answer: Any = None
        if method == "build":
            self.built.append((actor._number, arguments[0]))
            answer = self.build(actor._number, arguments[0])
        elif method in ("look", "open"):
            answer = (self.look if method == "look" else self.report)(actor._number)
        elif method == "done":
            answer = (0, 0)
        self.answers[len(self.answers)] = RayError("no such actor") if actor.dead else answer
        return len(self.answers) - 1

    def wait(self, references: list[int], num_returns: int = 1, timeout: float = 0) -> tuple[list[int], list[int]]:
        return references[:num_returns], references[num_returns:]

    def get(self, reference: int) -> Any:
        answer = self.answers[reference]
        if isinstance(answer, RayError):
            raise answer
        if isinstance(answer, BaseException):
            raise RayTaskError(answer)
        return answer

    def kill(self, actor: Actor, no_restart: bool) -> None:
        actor.dead = True
        self.killed.append(actor._number)
