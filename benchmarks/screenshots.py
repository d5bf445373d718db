"""Screenshots of every page, light and dark, wide and narrow: `python -m benchmarks.screenshots [--folder FOLDER] [PAGE ...]`.

Starts the app on a free port with the home folder set by OFFCOMP_HOME, and runs a race first if its page is wanted. Without
--folder, the images of the README are retaken: assets/images/PAGE-light.png and -dark.png.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from playwright.sync_api import Page, expect, sync_playwright

from offcomp.files import home_folder
from offcomp.models.listing import model_info
from offcomp.results.race import default_module, race_plans
from offcomp.runs.store import RunStore
from tests.browser import launch_options
from tests.serving import served

ROOT = Path(__file__).parents[1]
IMAGES = ROOT / "assets" / "images"
NAMES = ("start", "model", "inspect", "groups", "race", "compress", "runs", "compare", "examples", "atlas")
PAGES = {name: "/" if name == "start" else f"/{name}" for name in NAMES}
RACE_MODEL, RACE_RATIO = "offcomp-gpt", 4.0
SIZES = {"wide": (1280, 800), "narrow": (390, 844)}


def settle(page: Page) -> None:
    """Wait until the page no longer changes."""
    page.wait_for_selector('[data-testid="stApp"][data-test-script-state="notRunning"]', timeout=30_000)
    expect(page.get_by_test_id("stSkeleton")).to_have_count(0, timeout=60_000)
    page.wait_for_timeout(2000)


def race_path(home: Path) -> str:
    """The address of a finished race, which is run unless it has been run before."""
    info, store = model_info(RACE_MODEL, home), RunStore(home)
    runs = [store.submit(plan, info) for plan in race_plans(info, default_module(info), RACE_RATIO).values()]
    for run in runs:
        for _ in store.follow(run):
            pass
    return f"/race?race={','.join(run.id for run in runs)}"


def main() -> None:
    """Take the screenshots."""
    parser = argparse.ArgumentParser()
    parser.add_argument("pages", nargs="*", choices=[*PAGES, []], metavar="PAGE")
    parser.add_argument("--folder", type=Path)
    arguments = parser.parse_args()
    folder, names = arguments.folder, arguments.pages
    target = folder or IMAGES
    target.mkdir(parents=True, exist_ok=True)
    paths = dict(PAGES)
    if "race" in (names or PAGES):
        paths["race"] = race_path(home_folder())
    with served(home_folder()) as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(**launch_options())
        for theme in ("light", "dark"):
            for size, (width, height) in SIZES.items():
                if size == "narrow" and not folder:
                    continue
                context = browser.new_context(
                    viewport={"width": width, "height": height}, color_scheme=theme, reduced_motion="reduce"
                )
                page = context.new_page()
                for name in names or PAGES:
                    page.goto(address + paths[name])
                    page.wait_for_selector("h1")
                    settle(page)
                    suffix = f"-{size}" if folder else ""
                    page.screenshot(path=target / f"{name}-{theme}{suffix}.png")
                    if folder and size == "wide":
                        page.set_viewport_size({"width": width, "height": 1800})
                        settle(page)
                        page.screenshot(path=target / f"{name}-{theme}-tall.png")
                        page.set_viewport_size({"width": width, "height": height})
                context.close()
        browser.close()


if __name__ == "__main__":
    main()
