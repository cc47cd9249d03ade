"""Takes the pictures of the page that the documents show: light, dark and on a phone.

    python tools/page_pictures.py RUNS NAME [docs/pictures]

Needs Chromium and a run with contact sheets, as the quickstart leaves it. Two of its versions are tried on the way.
"""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

FLAGS = ["--no-sandbox", "--disable-gpu"]
WIDE, PHONE = {"width": 1180, "height": 1000}, {"width": 390, "height": 844}


def opened(browser: Any, address: str, scheme: str, size: dict[str, int]) -> Any:
    """The page, all pictures there."""
    page = browser.new_context(color_scheme=scheme, viewport=size, device_scale_factor=1).new_page()
    page.goto(address)
    page.wait_for_selector(".pairs[data-shown]")
    page.wait_for_selector("summary:text-is('Manifest')")
    return page


def try_two(page: Any) -> None:
    page.locator("summary", has_text="Try it").click()
    page.get_by_label("a held-out pair's condition").select_option("2")
    page.get_by_label("second version").select_option("1")
    page.get_by_label("third version").select_option("0")
    page.get_by_role("button", name="Draw").click()
    page.wait_for_selector("button:text-is('Keep')", timeout=120_000)


def main(runs: str, name: str, out: str = "docs/pictures") -> None:
    words = [sys.executable, "-m", "everstep", "watch", runs, "--port", "0"]
    server = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    address = f"{server.stdout.readline().rpartition(' is seen at ')[2].strip()}#{name}"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        light = opened(browser, address, "light", WIDE)
        light.screenshot(path=Path(out) / "watch.png")
        try_two(light)
        light.locator("section", has_text="Try it").screenshot(path=Path(out) / "watch-try.png")
        dark = opened(browser, address, "dark", WIDE)
        dark.locator(".two").scroll_into_view_if_needed()
        dark.evaluate("scrollTo(0, document.querySelector('.two').offsetTop - 20)")
        dark.screenshot(path=Path(out) / "watch-dark.png")
        opened(browser, address, "light", PHONE).screenshot(path=Path(out) / "watch-phone.png")
        browser.close()
    server.terminate()
    server.wait()


if __name__ == "__main__":
    main(*sys.argv[1:])
