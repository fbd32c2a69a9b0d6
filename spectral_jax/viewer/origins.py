"""Web pages of other sites must not reach the web viewer: their WebSocket connections are refused.

A browser lets any page connect to any address, also to a server on the user's own machine, and names the page's site in
the header Origin. viser does not look at it, and has no option for it.
"""

from __future__ import annotations

import functools
import http
import ipaddress
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit


def is_own(origin: str | None, host: str, listening: str) -> bool:
    """Whether a request comes from the viewer's own page, or from a program that is no browser and names no origin.

    `host` is the address that the browser asked for. Of a server that listens at a loopback address, it has a loopback
    name, whatever a foreign site's name resolves to.
    """
    if _is_loopback(listening) and not _is_loopback(urlsplit(f"//{host}").hostname):
        return False
    return origin is None or urlsplit(origin).netloc.lower() == host.lower()


def _is_loopback(name: str | None) -> bool:
    try:
        return name == "localhost" or ipaddress.ip_address(name or "").is_loopback
    except ValueError:
        return False


@contextmanager
def own_only(listening: str) -> Iterator[None]:
    """Servers that `websockets` starts in this context answer foreign WebSocket connections with status 403.

    viser passes no options on, so its call of `websockets.asyncio.server.serve` is completed here.
    """
    from websockets.asyncio import server

    serve = server.serve

    @functools.wraps(serve)
    def serve_own(*args: Any, process_request: Callable | None = None, **options: Any) -> Any:
        def check(connection: Any, request: Any) -> Any:
            headers = request.headers
            if "Upgrade" in headers and not is_own(headers.get("Origin"), headers.get("Host", ""), listening):
                return connection.respond(http.HTTPStatus.FORBIDDEN, "This page belongs to another site.\n")
            return process_request(connection, request) if process_request else None

        return serve(*args, process_request=check, **options)

    server.serve = serve_own
    try:
        yield
    finally:
        server.serve = serve
