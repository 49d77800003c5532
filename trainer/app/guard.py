"""Who may ask: pages of other sites may not, whatever name they give this machine, and no page may frame this one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from trainer.app.address import names_of

Next = Callable[[Request], Awaitable[Response]]
HEADERS = {
    "Cache-Control": "no-store",  # photographs of others stay out of the browser's disk
    "Content-Security-Policy": "frame-ancestors 'none'",  # all else is in the page itself, which a header would only narrow
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def guards(host: str) -> list[Middleware]:
    """For a page that listens at `host`. DNS rebinding gives this machine another name than its own."""
    return [
        Middleware(TrustedHostMiddleware, allowed_hosts=names_of(host), www_redirect=False),
        Middleware(BaseHTTPMiddleware, dispatch=from_here_alone),
    ]


async def from_here_alone(request: Request, respond: Next) -> Response:
    """Refuses what a page of another origin sends; a browser says where a request that changes something is from."""
    origin = request.headers.get("origin")
    if origin is not None and urlsplit(origin).netloc != request.headers["host"]:
        response: Response = JSONResponse({"error": f"a page of {origin} asked for this; only this page may"}, 403)
    else:
        response = await respond(request)
    response.headers.update(HEADERS)
    return response
