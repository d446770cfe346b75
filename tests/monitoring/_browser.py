"""Debian's Chromium, headless, driven by Selenium.

Invariant: it talks to this machine alone; what else it would like to ask for is switched off.
"""

from __future__ import annotations

import base64
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.wait import WebDriverWait

from gtasker.testing._server import end_with_parent

PATIENCE = 20.0
"""Seconds after which what must show counts as never showing."""
SWITCHES = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--force-prefers-reduced-motion",
)
DESKTOP, PHONE = (1280, 900), (390, 844)


class Browser:
    """A browser with one page."""

    def __init__(self, driver: Chrome) -> None:
        self.driver = driver

    def open(self, url: str) -> None:
        """Go there, as somebody who was never here: on a wide screen, in daylight."""
        self.driver.get("about:blank")
        self.driver.execute_cdp_cmd("Network.clearBrowserCookies", {})
        self.driver.execute_cdp_cmd("Storage.clearDataForOrigin", {"origin": url, "storageTypes": "all"})
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
        self.resize(*DESKTOP)
        self.complaints()
        self.driver.get(url)

    def resize(self, width: int, height: int, *, is_phone: bool = False, scale: float = 1) -> None:
        """Have a screen of that size, in the page's own pixels."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": is_phone}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    def prefer_dark(self) -> None:
        """Have a system in dark mode."""
        features = [{"name": "prefers-color-scheme", "value": "dark"}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def find(self, selector: str) -> WebElement:
        """The one element that is selected."""
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def count(self, selector: str) -> int:
        """How many elements are selected."""
        return len(self.driver.find_elements(By.CSS_SELECTOR, selector))

    def text(self, selector: str) -> str:
        """What the visitor reads there."""
        return self.find(selector).text

    def run(self, script: str, *arguments: Any) -> Any:
        """Run JavaScript in the page; its `return`."""
        return self.driver.execute_script(script, *arguments)

    def press(self, *keys: str) -> None:
        """Press keys, whatever has the focus."""
        ActionChains(self.driver).send_keys(*keys).perform()

    def until(self, predicate: Callable[[], Any], what: str) -> None:
        """Return as soon as `predicate` holds; raise when it never does."""
        WebDriverWait(self.driver, PATIENCE, 0.05, ignored_exceptions=(Exception,)).until(lambda _: predicate(), what)

    def complaints(self) -> list[str]:
        """What its console has said since the last call; not that the door is shut (401), which is no fault."""
        said: list[dict[str, Any]] = self.driver.get_log("browser")  # type: ignore[no-untyped-call]  # not annotated
        return [
            entry["message"]
            for entry in said
            if entry["level"] in {"SEVERE", "WARNING"} and "401" not in entry["message"]
        ]

    def picture(self, path: Path) -> None:
        """Save what is on the screen."""
        shot = self.driver.execute_cdp_cmd("Page.captureScreenshot", {"format": "png"})
        path.write_bytes(base64.b64decode(shot["data"]))


def _path(program: str) -> str:
    found = shutil.which(program)
    assert found is not None, (
        f"{program} is missing: on Debian, apt install chromium chromium-driver; else -m 'not browser'"
    )
    return found


def _mortal(program: str, script: Path) -> Path:
    """A script that starts the program so that it ends with the driver, which starts it."""
    script.write_text(f'#!/bin/sh\nexec setpriv --pdeathsig TERM {program} "$@"\n')
    script.chmod(0o755)
    return script


@contextmanager
def browser(profile: Path) -> Iterator[Browser]:
    """A browser with a profile of its own, gone when the block is left, or with this process."""
    driver = _path("chromedriver")
    options = ChromeOptions()
    options.binary_location = str(_mortal(_path("chromium"), profile.with_suffix(".sh")))
    for switch in (*SWITCHES, f"--user-data-dir={profile}"):
        options.add_argument(switch)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    chrome = Chrome(options, Service(driver, popen_kw={"preexec_fn": end_with_parent(signal.SIGTERM)}))
    try:
        yield Browser(chrome)
    finally:
        chrome.quit()
