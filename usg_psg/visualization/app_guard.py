"""Requests that the app's server refuses before gradio sees them: foreign hosts and origins, bodies that are too large.

A page of another site can send requests to a server on the visitor's own machine, and read the answers too if it lets
its own name point there (DNS rebinding). Both show in the headers `Host` and `Origin`, which a page cannot forge.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Iterable
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

LOOPBACK = ("localhost", "127.0.0.1", "::1")
EVERYWHERE = ("0.0.0.0", "::", "")  # addresses to listen on that mean all of the machine's
FORM = 1_000_000  # bytes of a request other than an upload, and what a form adds to a file
FETCHES = re.compile(r"/(file|proxy)=\w+:/", re.IGNORECASE)  # gradio would ask another server


class Hosts:
    """Names under which the app is served.

    Args:
        bound: address that the server listens on. If it is all of the machine's, the machine's name and any numeric
            address count as the app's, too: a rebound name is never numeric.
        allowed: more names, e.g. of a proxy in front; pages of these may send requests from there.
    """

    def __init__(self, bound: str, allowed: Iterable[str] = ()):
        self.allowed = {name.lower() for name in allowed}
        self._numeric = bound in EVERYWHERE
        self._names = {*LOOPBACK, bound.strip("[]").lower()}
        if self._numeric:
            self._names |= {socket.gethostname().lower(), socket.getfqdn().lower()}

    def is_host(self, header: str) -> bool:
        """Whether a Host header (name, maybe port) is the app's."""
        name = _name("//" + header)
        return name in self._names | self.allowed or (self._numeric and _is_address(name))

    def is_origin(self, origin: str, host: str) -> bool:
        """Whether a page of this origin may send requests to the app under this Host header."""
        return urlsplit(origin).netloc.lower() == host.lower() or _name(origin) in self.allowed


class Guard:
    """ASGI middleware that lets through what `hosts` allow, and files of `upload` bytes to `upload_path`."""

    def __init__(self, app: ASGIApp, hosts: Hosts, upload: int, upload_path: str = "/upload"):
        self.app, self.hosts, self.upload, self.upload_path = app, hosts, upload, upload_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or hand it on."""
        refusal = self._refusal(scope) if scope["type"] in ("http", "websocket") else None
        if refusal is None:
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            status, text = refusal
            headers = {"Connection": "close", "X-Content-Type-Options": "nosniff"}
            await PlainTextResponse(text, status, headers)(scope, receive, send)

    def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        headers = Headers(scope=scope)
        host = headers.getlist("host")
        if len(host) != 1 or not self.hosts.is_host(host[0]):
            return 403, "The app is not served under this name; --allow-host adds one."
        if not all(self.hosts.is_origin(origin, host[0]) for origin in headers.getlist("origin")):
            return 403, "Pages of other sites may not use the app."
        if FETCHES.search(scope["path"]):
            return 403, "The app asks no other server."
        if "transfer-encoding" in headers:
            return 411, "Requests must say their length."
        most = FORM + (self.upload if scope["path"].endswith(self.upload_path) else 0)
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > most:
            return 413, f"The request is larger than the maximum allowed size, {most / 1e6:g} MB."
        return None


def _name(url: str) -> str:
    """The host of a URL in small letters, without port and brackets; empty if there is none."""
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
