"""The app's server: Streamlit in this process, serving only requests from the app's own pages.

Streamlit lets any page on localhost, on any port, open the WebSocket that drives the app. Before rejecting a page
from another host, Streamlit asks an external service for this machine's address. `OwnPages` runs before these checks: looking
only at the headers, it rejects requests that do not come from the app's own address.
"""

from __future__ import annotations

import importlib
import re
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import streamlit as st
from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

AHEAD = ("offcomp.ui.frame", "offcomp.ui.start.page")
"""Modules that the Start page needs, imported before serving: the import takes 0.8 s and would slow down responses."""
HOSTS = ("127.0.0.1", "localhost")
OWN_HOST = re.compile(r"(127\.0\.0\.1|localhost)(:\d{1,5})?", re.IGNORECASE)
"""Names of this machine, with any port because a tunnel may use a different one."""
PRIVATE: dict[str, Any] = {
    "server.address": HOSTS[0],
    "server.allowedHosts": list(HOSTS),
    "server.headless": True,
    "browser.gatherUsageStats": False,
    "client.allowedOrigins": [],
    "server.enableAgentApi": False,
}
"""Settings that keep the app private to this machine; they override any settings file."""
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; worker-src 'self' blob:; connect-src 'self' ws://{host}; "
    "object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'self'"
)
"""Content security policy: the app's pages load nothing from other hosts, and other sites cannot embed the app."""
REFUSED = "This address serves only offcomp's own pages: open http://127.0.0.1:{port} in a browser on this machine."


def serve(script: Path, port: int) -> None:
    """Serve the app until stopped. Streamlit also reads settings from the script's folder, whatever the working directory."""
    for name in AHEAD:
        importlib.import_module(name)
    sys.argv = [str(script)]  # the script's folder contains the settings and the pages
    with suppress(KeyboardInterrupt):
        st.App(script, middleware=[Middleware(OwnPages)]).run(config=PRIVATE | {"server.port": port})


class OwnPages:
    """ASGI middleware that accepts requests from the app's own pages and from users who open the app or follow a link to it."""

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Forward a request, or reject it with status 403."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif not is_own(scope):
            port = scope["server"][1]
            answer = PlainTextResponse(REFUSED.format(port=port), 403)
            close: Message = {"type": "websocket.close", "code": 1008}
            await (send(close) if scope["type"] == "websocket" else answer(scope, receive, send))
        else:
            await self.app(scope, receive, _with_policy(send, Headers(scope=scope)["host"]))


def is_own(scope: Scope) -> bool:
    """Return whether a request names this machine as its host and comes from the app's own pages, the address bar or a link.

    Browsers send the requesting page's origin in `Origin` (always for WebSockets), and in `Sec-Fetch-Site` how the page's
    origin relates to this host. Pages on other ports of this host also count as foreign. Any page may link to the app.
    """
    headers = Headers(scope=scope)
    hosts, origins = headers.getlist("host"), headers.getlist("origin")
    if len(hosts) != 1 or not OWN_HOST.fullmatch(hosts[0]):
        return False
    if origins or scope["type"] == "websocket":
        return origins == [f"http://{hosts[0]}"]
    opened = (headers.get("sec-fetch-mode"), headers.get("sec-fetch-dest")) == ("navigate", "document")
    return headers.get("sec-fetch-site", "none") in ("none", "same-origin") or (opened and scope["method"] == "GET")


def _with_policy(send: Send, host: str) -> Send:
    """Add the content security policy to HTTP responses."""

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message)["content-security-policy"] = POLICY.format(host=host)
        await send(message)

    return sending
