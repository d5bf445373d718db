"""The app responds only to its own pages, and neither the app nor its workers contact other machines."""

from __future__ import annotations

import http.server
import io
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Browser, expect
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from offcomp.runs.store import RunStore
from tests.pages import PATHS
from tests.serving import Visit, open_part, served, settled
from tests.ui.test_browser import choose_kinds, choose_methods, ended
from tests.watched import outside, watched

pytestmark = pytest.mark.browser
STREAM = "/_stcore/stream"
PATIENT = 60_000  # milliseconds
FOREIGN = (
    "http://evil.example",
    "http://localhost:{other}",
    "http://127.0.0.1:{other}",
    "https://127.0.0.1:{port}",
    "null",
    "",
)
"""Origins of other pages. The last stands for no origin at all; browsers always state one when they open a websocket."""


@pytest.fixture(scope="module")
def targets(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The log of all network accesses of the server, its workers and the processes that these start."""
    with watched(tmp_path_factory.mktemp("hook")) as log:
        yield log


@pytest.fixture(scope="module")
def address(home: Path, targets: Path) -> Iterator[str]:
    """The address of the app, whose network accesses are recorded."""
    assert targets.is_file()
    with served(home) as started:
        yield started


def knock(address: str, origin: str = "", host: str = "127.0.0.1:{port}") -> bool:
    """Whether the websocket opens for a page with this origin that addresses the app by this host name."""
    port = int(address.rpartition(":")[2])
    uri = f"ws://{host.format(port=port)}{STREAM}"
    made = origin.format(port=port, other=port + 1) or None
    try:
        with connect(uri, origin=made, sock=socket.create_connection(("127.0.0.1", port))):  # type: ignore[arg-type]
            return True
    except InvalidStatus as refusal:
        assert refusal.response.status_code == 403
        return False


def status(address: str, path: str, method: str = "GET", **headers: str) -> int:
    """Return the status of a response. In the names of the headers, `_` stands for `-`."""
    port = address.rpartition(":")[2]
    named = {name.replace("_", "-"): text.format(port=port, other=int(port) + 1) for name, text in headers.items()}
    request = urllib.request.Request(address + path, method=method, headers=named)  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


@pytest.mark.parametrize("host", ["127.0.0.1:{port}", "localhost:{port}", "localhost:9", "127.0.0.1"])
def test_the_apps_own_page_opens_the_websocket(address: str, host: str) -> None:
    assert knock(address, f"http://{host}", host)


@pytest.mark.parametrize("origin", FOREIGN)
def test_no_other_page_opens_the_websocket(address: str, targets: Path, origin: str) -> None:
    assert not knock(address, origin)
    assert outside(targets) == []


@pytest.mark.parametrize("host", ["evil.example", "evil.example:{port}", "127.0.0.1.evil.example", "0.0.0.0:{port}"])
def test_another_name_of_this_machine_is_refused(address: str, host: str) -> None:
    """This prevents DNS rebinding, where the host name of a foreign page resolves to 127.0.0.1 once the page is open."""
    assert not knock(address, f"http://{host}", host)
    assert status(address, "/_stcore/health", Host=host) == 403


@pytest.mark.parametrize(
    ("path", "method"),
    [
        *(("/", "GET"), ("/_stcore/health", "GET"), ("/_stcore/host-config", "GET"), ("/_stcore/metrics", "GET")),
        *(("/_stcore/upload_file/session/file", "PUT"), ("/_stcore/upload_file/session/file", "DELETE")),
        *(("/media/some.csv", "GET"), ("/component/some/index.html", "GET"), ("/_stcore/agent", "POST")),
    ],
)
@pytest.mark.parametrize("origin", FOREIGN[:-1])
def test_no_other_page_gets_an_answer(address: str, path: str, method: str, origin: str) -> None:
    assert status(address, path, method, Origin=origin) == 403
    site = {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "no-cors", "Sec_Fetch_Dest": "image"}
    assert status(address, path, method, **site) == 403  # browsers request images without an Origin


@pytest.mark.parametrize(("dest", "code"), [("document", 200), ("iframe", 403)])
def test_a_link_elsewhere_opens_the_app_but_no_page_shows_it_inside(address: str, dest: str, code: int) -> None:
    site = {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "navigate", "Sec_Fetch_Dest": dest}
    assert status(address, "/compress?ratio=4", **site) == code


def test_a_page_on_another_port_gets_nothing_in_a_real_browser(browser: Browser, address: str, tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text(f"<title>other</title><iframe src='{address}/' onload='loaded = true'></iframe>")

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments: object) -> None:
            super().__init__(*arguments, directory=str(tmp_path))  # type: ignore[arg-type]

        def log_message(self, *_arguments: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as other:
        threading.Thread(target=other.serve_forever, daemon=True).start()
        page = browser.new_page()
        page.goto(f"http://localhost:{other.server_address[1]}/index.html")
        opened = page.evaluate(
            "uri => new Promise(done => { const s = new WebSocket(uri, ['streamlit']);"
            " s.onopen = () => done(true); s.onerror = () => done(false) })",
            address.replace("http", "ws") + STREAM,
        )
        inside = page.frames[1].evaluate("document.body ? document.body.innerText : ''")
        page.close()
        other.shutdown()
    assert not opened
    assert "Shrink a language model" not in inside


def test_the_hook_sees_what_leaves(tmp_path: Path) -> None:
    code = "import socket\ntry: socket.getaddrinfo('example.invalid', 80)\nexcept OSError: pass"
    with watched(tmp_path) as log:
        subprocess.run([sys.executable, "-c", code], check=True)
    assert outside(log) == ["socket.getaddrinfo example.invalid"]


def test_nothing_leaves_while_every_page_uploads_and_a_run_are_used(app: Visit, home: Path, targets: Path) -> None:
    page = app.page
    for path in PATHS:
        app.open(path)
        settled(page, PATIENT)
    content = io.BytesIO()
    np.savez(content, left=np.random.default_rng(0).normal(size=(40, 30)).astype(np.float32))
    table = b"sentence,verdict\n" + b"".join(b"text %d,%s\n" % (i, (b"good", b"bad")[i % 2]) for i in range(120))
    app.open("/compress")
    choose_kinds(page, "query")
    choose_methods(page, "SVD")
    with open_part(page, "Tasks") as tasks:
        tasks.get_by_text("Your own examples").click()
        tasks.locator("input[type=file]").set_input_files({"name": "mine.csv", "mimeType": "text/csv", "buffer": table})
        expect(tasks.get_by_text("120 rows, 2 classes")).to_be_visible(timeout=PATIENT)
    page.get_by_role("button", name="Run SVD").click()
    ended(page)
    app.open("/model")
    page.get_by_text("Bring your own model").click()
    matrices = {"name": "mine.npz", "mimeType": "application/zip", "buffer": content.getvalue()}
    page.locator("input[type=file]").set_input_files(matrices)
    expect(page.get_by_text("40 x 30").first).to_be_visible(timeout=PATIENT)
    for path in ("/runs", "/compare", "/examples", "/atlas"):
        app.open(path)
        settled(page, PATIENT)
    knock(app.address, "http://evil.example")
    assert [run.status for run in RunStore(home).all()] == ["done"]
    assert "socket.bind 127.0.0.1" in targets.read_text()  # the hook was active
    assert outside(targets) == []
