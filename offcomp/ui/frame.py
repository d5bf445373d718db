"""The frame shared by all pages: settings, navigation, job progress, title and error messages."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import streamlit as st

from offcomp import __version__
from offcomp.errors import OffcompError, PlanError
from offcomp.files import assets_folder
from offcomp.results.charts.theme import PALETTES, Palette
from offcomp.runs.store import RunStore
from offcomp.ui import draft
from offcomp.ui.compare.selection import compared
from offcomp.ui.escape import plain

DOORS = {
    "": (("app.py", "Start", ":material/home:"),),
    "Lab": (
        ("pages/model.py", "Model", ":material/grid_view:"),
        ("pages/inspect.py", "Inspect", ":material/search:"),
        ("pages/groups.py", "Groups", ":material/hub:"),
        ("pages/race.py", "Race", ":material/sports_score:"),
        ("pages/compress.py", "Compress", ":material/compress:"),
    ),
    "Results": (
        ("pages/runs.py", "Runs", ":material/list_alt:"),
        ("pages/compare.py", "Compare", ":material/compare_arrows:"),
        ("pages/examples.py", "Examples", ":material/rule:"),
        ("pages/atlas.py", "Atlas", ":material/monitoring:"),
    ),
}
"""The sidebar: heading -> pages, each with its file, title and icon."""
PAGES = tuple(page for pages in DOORS.values() for page in pages)
ICON = assets_folder() / "images" / "icon.svg"
POLL_SECONDS = 1.0
SIDEBAR_PIXELS = 220
MAX_FAULTS, MAX_FAULT_LENGTH = 20, 1000
_FROZEN_PAGES: set[str] = set()
"""Pages that this process has already shown."""
STYLE = """
[data-testid="stElementContainer"]:has(> [data-testid="stHtml"] > style) {position: absolute}
.stMainBlockContainer {max-width: 1200px; padding: 3.9rem 2rem 4rem}
.stMainBlockContainer [data-testid="stHeading"] h1 {font-size: 1.8rem; padding: 0 0 .3rem}
.stMainBlockContainer [data-testid="stHeading"] h3 {font-size: 1.2rem; padding: .8rem 0 .2rem}
[data-testid="stMetricValue"] {font-size: 1.25rem}
[data-testid="stMultiSelectTagsContainer"] [data-tag] * {color: light-dark(#ffffff, #12151c)}
.st-key-panel [data-testid="stCaptionContainer"] p {font-size: .82rem; line-height: 1.3}
.st-key-panel {padding: .8rem 1rem .5rem; gap: .3rem}
.st-key-panel [data-testid="stImage"] img {max-height: 6.5rem; border-radius: 0}
.st-key-panel [data-testid="stElementToolbar"] {display: none}
[class*="st-key-row_"] {gap: .5rem}
[class*="st-key-row_"] [data-testid="stButtonGroup"] button {padding: .1rem .55rem; min-height: 1.9rem}
[data-testid^="stBaseButton-primary"]:not(:disabled) {color: light-dark(#ffffff, #12151c)}
[data-testid^="stBaseButton-primary"] kbd {color: inherit; opacity: 1}
[data-testid="stCaptionContainer"] {opacity: .8}
[data-testid="stElementToolbarButton"]:has([aria-label^="Download as CSV"]) {display: none}  /* does not escape formulas */
@media (max-width: 640px) {.stMainBlockContainer {padding: 4rem 1rem 3rem}}
"""
POPOVERS = '[data-testid="stPopoverBody"] {{color-scheme: {}}}'
"""Popovers are drawn outside the element from which everything else inherits the theme's colour scheme."""


@contextmanager
def page(name: str, question: str = "") -> Iterator[None]:
    """Draw the frame, the question as a title, and the page; leave the question empty if the page shows its own title.

    An OffcompError raised by the page is shown as a message; the draft is kept.
    """
    st.set_page_config(page_title=f"{name} - offcomp", page_icon=str(ICON), layout="wide", initial_sidebar_state=SIDEBAR_PIXELS)
    style(STYLE + POPOVERS.format(_scheme()))
    _sweep()
    draft.restore(name)
    with st.sidebar:
        st.markdown("### offcomp")
        st.caption("Shrink a language model and see what breaks.")
        for door, pages in DOORS.items():
            if door:
                st.caption(f"**{plain(door)}**")
            for path, title, icon in pages:
                st.page_link(path, label=plain(title), icon=icon)
        with reporting_errors():
            jobs_chip()
        if runs := compared():
            st.caption(plain(f"Compared: {runs}"))
        st.caption(plain(f"Version {__version__}. Everything stays on this machine."))
    if question:
        st.title(plain(question))
    draft.show_problems()
    with reporting_errors():
        yield
    draft.show_problems()
    draft.share()
    _freeze_loaded_objects(name)


@st.cache_resource(show_spinner=False)
def _sweep() -> None:
    """Remove files left in the home folder by processes that were killed. Done once per process; failures are ignored."""
    with suppress(OSError):
        RunStore().sweep()


def _freeze_loaded_objects(name: str) -> None:
    """After the first visit to a page, exclude all objects loaded so far from garbage collection.

    Streamlit runs a full collection after every script run. Collecting the objects of all libraries took up half of
    the server's time whenever a slider was moved.
    """
    if name not in _FROZEN_PAGES:
        _FROZEN_PAGES.add(name)
        gc.collect()
        gc.freeze()


def style(rules: str) -> None:
    """Add CSS rules to the page. The empty span is needed because a lone style element is sent differently and may be lost."""
    st.html(f"<style>{rules}</style><span hidden></span>")


@contextmanager
def reporting_errors() -> Iterator[None]:
    """Show an OffcompError from the block as a message, one line per fault. Callbacks need this as they run outside `page`."""
    try:
        yield
    except OffcompError as error:
        faults = error.faults if isinstance(error, PlanError) else (str(error),)
        st.error("  \n".join(plain(fault[:MAX_FAULT_LENGTH]) for fault in faults[:MAX_FAULTS]), icon=":material/error:")


@contextmanager
def fragment() -> Iterator[None]:
    """Like `page`, but for a fragment that reruns on its own: show errors as messages and write the draft to the URL."""
    with reporting_errors():
        yield
    draft.show_problems()
    draft.share()


def jobs_chip() -> None:
    """Show the active runs in the sidebar, polling while there are any."""
    active = any(not run.ended for run in RunStore().all())
    st.fragment(_show_jobs, run_every=POLL_SECONDS if active else None)()


@reporting_errors()
def _show_jobs() -> None:
    active = [run for run in RunStore().all() if not run.ended]
    running = [run for run in active if run.status == "running"]
    if running:
        fraction = running[0].progress.fraction if running[0].progress else 0.0
        waiting = f", {len(active) - len(running)} waiting" if len(active) > len(running) else ""
        st.progress(fraction, text=f"{len(running)} running{waiting}")
    elif active:
        st.caption(f"{len(active)} waiting to start")
    elif st.session_state.pop("was_busy", False):
        st.rerun()
    if active:
        st.session_state["was_busy"] = True


def palette() -> Palette:
    """Return the palette of the current theme, light or dark."""
    return PALETTES[_scheme()]


def _scheme() -> str:
    return "dark" if st.context.theme.type == "dark" else "light"
