"""Headless Chromium for tests of pages: what ran, what was asked of the network, what is seen.

Tests that use it are skipped where there is no Chromium, or fail there if LOSSMASK_REQUIRE_BROWSER
is 1. A browser takes a second to start: one per module, by ``browser`` in a fixture of its scope.
"""

from __future__ import annotations

import io
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

_CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
_DRIVER = shutil.which("chromedriver")
_FLAGS = (
    "--headless=new",
    "--no-sandbox",  # the tests may run as root
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--force-color-profile=srgb",
)
_REQUIRED = os.environ.get("LOSSMASK_REQUIRE_BROWSER") == "1"
needs_browser = pytest.mark.skipif(
    not _REQUIRED and not (_CHROMIUM and _DRIVER),
    reason="no chromium and chromedriver; LOSSMASK_REQUIRE_BROWSER=1 makes this a failure",
)


@contextmanager
def browser(profile: Path, *, width: int = 1280, height: int = 900) -> Iterator[Chrome]:
    """Start Chromium with a new profile in an empty folder; end it.

    Raises:
        AssertionError: There is none.
    """
    assert _CHROMIUM, "no chromium on the PATH"
    assert _DRIVER, "no chromedriver on the PATH"
    options = ChromeOptions()
    options.binary_location = _CHROMIUM
    for flag in (*_FLAGS, f"--user-data-dir={profile}", f"--window-size={width},{height}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = Chrome(options=options, service=Service(executable_path=_DRIVER))
    try:
        yield driver
    finally:
        driver.quit()


def set_screen(
    driver: Chrome, *, width: int, height: int, dark: bool = False, touch: bool = False
) -> None:
    """Make the page's area so many CSS pixels, in the light or the dark scheme of the system."""
    driver.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": touch},
    )
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})


def open_page(driver: Chrome, page: Path | str) -> None:
    """Open a file or a URL, the logs of earlier pages forgotten."""
    for kind in ("browser", "performance"):
        _log(driver, kind)
    driver.get(page.resolve().as_uri() if isinstance(page, Path) else page)


def console_messages(driver: Chrome) -> list[str]:
    """Return what the console was told since the last look: errors, broken policies, logs."""
    return [f"{entry['level']}: {entry['message']}" for entry in _log(driver, "browser")]


def requested(driver: Chrome) -> list[str]:
    """Return the URLs that were asked for since the last look, data in URLs left out."""
    urls = []
    for entry in _log(driver, "performance"):
        event: dict[str, Any] = json.loads(entry["message"])["message"]
        if event["method"] == "Network.requestWillBeSent":
            urls.append(event["params"]["request"]["url"])
    return [url for url in urls if not url.startswith(("data:", "chrome:"))]


def _log(driver: Chrome, kind: str) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = driver.get_log(kind)  # type: ignore[no-untyped-call]
    return entries


def screenshot(driver: Chrome, path: Path) -> Image.Image:
    """Save what is seen.

    Raises:
        AssertionError: It is blank.
    """
    driver.execute_async_script(
        "const [painted] = arguments; requestAnimationFrame(() => requestAnimationFrame(painted))"
    )
    shot = driver.get_screenshot_as_png()
    path.write_bytes(shot)
    image = Image.open(io.BytesIO(shot)).convert("RGB")
    assert len(image.getcolors(1 << 24) or ()) > 20, f"{path} is blank"
    return image


def one(driver: Chrome, css: str) -> WebElement:
    """Return the only element of a selector.

    Raises:
        AssertionError: There is none or several.
    """
    found = driver.find_elements(By.CSS_SELECTOR, css)
    assert len(found) == 1, f"{len(found)} elements are {css}"
    return found[0]


def texts(driver: Chrome, css: str) -> list[str]:
    """Return the texts of all elements of a selector, as the page has them."""
    script = "return [...document.querySelectorAll(arguments[0])].map((e) => e.textContent)"
    found: list[str] = driver.execute_script(script, css)
    return found
