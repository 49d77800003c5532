"""What the page asks for, over HTTP: photographs in, pictures out, and how far a generation is.

GET  /                           the page                POST   /photographs    an encoded picture -> its condition
GET  /photographs/NAME[/PART]    its pictures            POST   /generations    settings -> a generation
GET  /generations/NAME[/ARM]     how far it is           DELETE /generations/NAME    before its next step

What cannot be is answered with a 4xx and {"error": a sentence}.
"""

from __future__ import annotations

from asyncio import Semaphore
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from condprep.errors import Rejected
from trainer.app.conditions import Conditions
from trainer.app.drawing import Asked
from trainer.app.generations import Busy, Generations
from trainer.app.guard import guards
from trainer.app.kept import Generation, Kept, Photograph

MOST_BYTES = 100_000_000  # of a photograph
MOST_SETTINGS = 20_000  # bytes
AT_ONCE = 2  # photographs that are received and annotated
GONE = "the page does not have that any more: it keeps the newest ones, for as long as it runs"


class AskedOf(Asked):
    """The settings of a generation, and of which photograph."""

    photograph: str


class Page:
    """The endpoints, and what they share."""

    def __init__(self, html: str, conditions: Conditions, generations: Generations) -> None:
        self._html, self._conditions, self._drawn = html, conditions, generations
        self._photographs: Kept[Photograph] = Kept()
        self._generations: Kept[tuple[Generation, str]] = Kept()  # with the name of the photograph
        self._receiving = Semaphore(AT_ONCE)

    def application(self, host: str) -> Starlette:
        """The ASGI application of a page that listens at `host`."""
        return Starlette(
            routes=[
                Route("/", self.page),
                Route("/photographs", self.annotate, methods=["POST"]),
                Route("/photographs/{name}", self.photograph),
                Route("/photographs/{name}/{part}.png", self.part),
                Route("/generations", self.generate, methods=["POST"]),
                Route("/generations/{name}", self.cancel, methods=["DELETE"]),
                Route("/generations/{name}", self.generation),
                Route("/generations/{name}/{arm}.png", self.picture),
            ],
            middleware=guards(host),
            exception_handlers={HTTPException: _said},
            lifespan=self._life,
        )

    @asynccontextmanager
    async def _life(self, _: Starlette) -> AsyncIterator[None]:
        self._drawn.start()
        yield
        await run_in_threadpool(self._drawn.close)

    async def page(self, _: Request) -> Response:
        return HTMLResponse(self._html)

    async def annotate(self, request: Request) -> Response:
        async with self._receiving:
            data = await _body(request, MOST_BYTES)
            try:
                pair = await run_in_threadpool(self._conditions, data)
            except Rejected as rejected:
                raise HTTPException(413 if rejected.code == "too-many-pixels" else 400, rejected.reason) from None
        found = Photograph.of(pair)
        name = self._photographs.add(found)
        return JSONResponse(_shown_photograph(name, found), 201)

    async def photograph(self, request: Request) -> Response:
        name, found = self._asked_photograph(request.path_params["name"])
        return JSONResponse(_shown_photograph(name, found))

    async def part(self, request: Request) -> Response:
        _, found = self._asked_photograph(request.path_params["name"])
        return _png(found.pictures, request.path_params["part"])

    async def generate(self, request: Request) -> Response:
        asked = _parsed(await _body(request, MOST_SETTINGS))
        name, photograph = self._asked_photograph(asked.photograph)
        generation = Generation(photograph, Asked(**asked.model_dump(exclude={"photograph"})))
        try:
            self._drawn.add(generation)
        except Busy as busy:
            raise HTTPException(503, str(busy)) from None
        return self._shown(self._generations.add((generation, name)), generation, name, 202)

    async def generation(self, request: Request) -> Response:
        return self._shown(*self._asked_generation(request))

    async def cancel(self, request: Request) -> Response:
        name, generation, photograph = self._asked_generation(request)
        self._drawn.cancel(generation)
        return self._shown(name, generation, photograph)

    async def picture(self, request: Request) -> Response:
        _, generation, _ = self._asked_generation(request)
        return _png(generation.pictures, request.path_params["arm"])

    def _asked_photograph(self, name: str) -> tuple[str, Photograph]:
        of_results = (generation.photograph for generation, of in self._generations.values() if of == name)
        found = self._photographs.get(name) or next(of_results, None)
        if found is None:
            raise HTTPException(404, GONE)
        return name, found

    def _asked_generation(self, request: Request) -> tuple[str, Generation, str]:
        name = request.path_params["name"]
        found = self._generations.get(name)
        if found is None:
            raise HTTPException(404, GONE)
        return name, *found

    def _shown(self, name: str, generation: Generation, photograph: str, status: int = 200) -> Response:
        return JSONResponse(
            {
                "name": name,
                "photograph": _shown_photograph(photograph, generation.photograph),
                "asked": generation.asked.model_dump(),
                "state": generation.state,
                "ahead": self._drawn.ahead(generation),
                "step": generation.step,
                "steps": generation.steps,
                "problem": generation.problem,
                "pictures": {arm: f"/generations/{name}/{arm}.png" for arm in generation.pictures},
            },
            status,
        )


def _shown_photograph(name: str, found: Photograph) -> dict[str, Any]:
    width, height = found.pair.condition.size
    pictures = {part: f"/photographs/{name}/{part}.png" for part in found.pictures}
    return {"name": name, "width": width, "height": height, "note": found.pair.note, "pictures": pictures}


def _png(pictures: Mapping[Any, bytes], name: str) -> Response:
    if name not in pictures:
        raise HTTPException(404, GONE)
    return Response(pictures[name], media_type="image/png")


async def _body(request: Request, most: int) -> bytes:
    """Of at most so many bytes, whatever the headers say."""
    data = bytearray()
    async for part in request.stream():
        data += part
        if len(data) > most:
            raise HTTPException(413, f"more than {most / 1e6:g} MB")
    return bytes(data)


def _parsed(data: bytes) -> AskedOf:
    try:
        return AskedOf.model_validate_json(data)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_context=False)[0]
        raise HTTPException(400, f"{'.'.join(map(str, problem['loc'])) or 'settings'}: {problem['msg']}") from None


async def _said(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, error.status_code, error.headers)
