"""The app's server: Streamlit in this process, answering pages of the app itself and nobody else.

Streamlit lets every page on localhost, whatever its port, open the websocket that drives the app, and before it refuses a page
from elsewhere it asks an outside service for the address of this machine. `OwnPages` stands before all of it, and refuses what
does not come from the app's own address by looking at its headers alone.
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

AHEAD = ("offcomp.ui.frame", "offcomp.answers", "offcomp.bundled", "offcomp.ui.results", "offcomp.ui.plain")
"""What Start imports, .8 s of a first visit. Loaded beside the server's answers it would hold up each of them."""
HOSTS = ("127.0.0.1", "localhost")
OWN_HOST = re.compile(r"(127\.0\.0\.1|localhost)(:\d{1,5})?", re.IGNORECASE)
"""This machine by name, at any port: a tunnel may lead here from another one."""
PRIVATE: dict[str, Any] = {
    "server.address": HOSTS[0],
    "server.allowedHosts": list(HOSTS),
    "server.headless": True,
    "browser.gatherUsageStats": False,
    "client.allowedOrigins": [],
    "server.enableAgentApi": False,
}
"""What keeps the app on this machine: these win over any settings file."""
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; worker-src 'self' blob:; connect-src 'self' ws://{host}; "
    "object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'self'"
)
"""The browser itself fetches nothing from elsewhere for a page of the app, and shows none inside another page."""
REFUSED = "This address answers the pages of offcomp alone: open http://127.0.0.1:{port} in a browser on this machine."


def serve(script: Path, port: int) -> None:
    """Serve the app until it is stopped. Streamlit also reads the settings beside the script, wherever it was started."""
    for name in AHEAD:
        importlib.import_module(name)
    sys.argv = [str(script)]  # whose folder has the settings and the pages
    with suppress(KeyboardInterrupt):
        st.App(script, middleware=[Middleware(OwnPages)]).run(config=PRIVATE | {"server.port": port})


class OwnPages:
    """ASGI middleware that lets through what pages of the app ask, and who opens its address or follows a link to it."""

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it with status 403."""
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
    """Whether a request is for this machine by name, and from no page but the app's own.

    A browser names in `Origin` whose page asks, always for a websocket, and in `Sec-Fetch-Site` how far that is from here.
    Pages on other ports of this host are strangers, too. To open the app itself, a person may come from anywhere.
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
    """Answers over HTTP say what the browser may fetch for them."""

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message)["content-security-policy"] = POLICY.format(host=host)
        await send(message)

    return sending
