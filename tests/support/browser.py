"""A headless Chromium that opens pages from files, and says what a person with a mouse, a keyboard or a finger would notice."""

from __future__ import annotations

import base64
import io
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.remote.webelement import WebElement

__all__ = ["Browser", "chromium"]

_FLAGS: Final = (
    "--headless=new",
    "--disable-gpu",
    "--hide-scrollbars",
    "--force-device-scale-factor=1",
    # The browser's own requests, which are none of the page's.
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--no-first-run",
    # /dev/shm of a container is small.
    "--disable-dev-shm-usage",
)


class Browser:
    """One tab. `driver` is selenium's, for what isn't here."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self.driver = driver

    def open(self, path: Path, *, width: int = 1440, height: int = 1000, dark: bool = False, finger: bool = False) -> None:
        """Show a file, and wait until it says that it is ready. Raises AssertionError after 20 s, with what its console says."""
        self.settle()
        self.resize(width, height, finger=finger)
        self._tell("Emulation.setTouchEmulationEnabled", enabled=finger)
        self.scheme(dark=dark)
        self.driver.get(path.as_uri())
        self.until(lambda: self.run("return document.documentElement.dataset.ready") == "true")

    def resize(self, width: int, height: int = 1000, *, finger: bool = False) -> None:
        """The window, whose page stays open."""
        self._tell("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=finger)

    def settle(self) -> None:
        """Forget what the console and the network did until now."""
        for kind in ("browser", "performance"):
            self._log(kind)

    def _log(self, kind: str) -> list[dict[str, Any]]:
        get: Callable[[str], list[dict[str, Any]]] = self.driver.get_log
        return get(kind)

    def scheme(self, *, dark: bool) -> None:
        """What the system prefers."""
        features = [
            {"name": "prefers-color-scheme", "value": "dark" if dark else "light"},
            {"name": "prefers-reduced-motion", "value": "reduce"},
        ]
        self._tell("Emulation.setEmulatedMedia", features=features)

    def _tell(self, command: str, **arguments: Any) -> Any:
        return self.driver.execute_cdp_cmd(command, arguments)

    def run(self, script: str, *arguments: Any) -> Any:
        """The value that `script` returns."""
        return self.driver.execute_script(script, *arguments)

    def until(self, holds: Callable[[], object], seconds: float = 20) -> None:
        deadline = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < deadline, f"still not after {seconds} s; console: {self.console()}"
            time.sleep(0.02)

    def console(self) -> list[str]:
        """What was written to the console since the page was opened, errors that nobody caught among it."""
        return [f"{entry['level']}: {entry['message']}" for entry in self._log("browser")]

    def requests(self) -> list[str]:
        """Addresses that were asked for since the page was opened."""
        events = [json.loads(entry["message"])["message"] for entry in self._log("performance")]
        urls = [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]
        return [url for url in urls if not url.startswith(("data:", "chrome:"))]

    def find(self, selector: str) -> WebElement:
        return self.driver.find_element("css selector", selector)

    def all(self, selector: str) -> list[WebElement]:
        return self.driver.find_elements("css selector", selector)

    def texts(self, selector: str) -> list[str]:
        """Of every element, without a round trip for each."""
        return self.run("return [...document.querySelectorAll(arguments[0])].map((each) => each.textContent)", selector)  # type: ignore[no-any-return]

    def click(self, selector: str) -> None:
        """With the mouse, in the middle of the first that matches."""
        found = self.find(selector)
        self.run("arguments[0].scrollIntoView({block: 'center'})", found)
        ActionChains(self.driver, duration=0).move_to_element(found).click().perform()

    def click_at(self, x: int, y: int) -> None:
        """With the mouse, at a point of the window."""
        self.hover(x, y)
        for kind in ("mousePressed", "mouseReleased"):
            self._tell("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def drag(self, left: int, right: int, y: int) -> None:
        """With the mouse, from one point to another at the same height."""
        self.hover(left, y)
        self._tell("Input.dispatchMouseEvent", type="mousePressed", x=left, y=y, button="left", clickCount=1)
        for x in range(left, right + 1, max(1, (right - left) // 5)):
            self._tell("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y, button="left", buttons=1)
        self._tell("Input.dispatchMouseEvent", type="mouseReleased", x=right, y=y, button="left", clickCount=1)

    def hover(self, x: int, y: int) -> None:
        """Move the mouse there."""
        self._tell("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def tap(self, selector: str) -> None:
        """With a finger."""
        found = self.find(selector)
        self.run("arguments[0].scrollIntoView({block: 'center'})", found)
        box = self.run(
            "const {left, top, width, height} = arguments[0].getBoundingClientRect(); return [left + width / 2, top + height / 2]",
            found,
        )
        self._tell("Input.dispatchTouchEvent", type="touchStart", touchPoints=[{"x": box[0], "y": box[1]}])
        self._tell("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])

    def press(self, *keys: str) -> None:
        """One after the other, to whatever has the focus."""
        ActionChains(self.driver, duration=0).send_keys(*keys).perform()

    def focused(self) -> WebElement:
        return self.driver.switch_to.active_element

    def picture(self, selector: str) -> tuple[Image.Image, int, int]:
        """What an element looks like, brought into view, and where in the window its left upper corner is."""
        self.run("document.querySelector(arguments[0]).scrollIntoView({block: 'center'})", selector)
        self.run("return new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
        left, top, width, height = self.run(
            "const {left, top, width, height} = document.querySelector(arguments[0]).getBoundingClientRect(); return [left, top, width, height]",
            selector,
        )
        whole = self._tell("Page.captureScreenshot", format="png")["data"]
        image = Image.open(io.BytesIO(base64.b64decode(whole))).convert("RGB")
        return image.crop((int(left), int(top), int(left + width), int(top + height))), int(left), int(top)

    def places(self, selector: str, colour: str) -> list[tuple[int, int]]:
        """The points of the window, within an element, that have the colour of the theme's `colour` (``--failed``)."""
        value = self.run("return getComputedStyle(document.documentElement).getPropertyValue(arguments[0]).trim()", colour)
        wanted = [int(value[at : at + 2], 16) for at in (1, 3, 5)]
        image, left, top = self.picture(selector)
        found = np.argwhere((np.abs(np.asarray(image, dtype=int) - wanted) <= 12).all(axis=2))
        return [(left + int(x), top + int(y)) for y, x in found]


@contextmanager
def chromium() -> Iterator[Browser]:
    """Debian's, through its own driver: nothing is downloaded."""
    options = webdriver.ChromeOptions()
    options.binary_location = "/usr/bin/chromium"
    for flag in _FLAGS + (("--no-sandbox",) if os.geteuid() == 0 else ()):  # Chromium's own sandbox refuses root
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    # It leaves directories in the one for temporary files, and some of its processes end after the driver.
    with tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True) as directory:
        service = Service("/usr/bin/chromedriver", env={**os.environ, "TMPDIR": directory})
        driver = webdriver.Chrome(options=options, service=service)
        try:
            yield Browser(driver)
        finally:
            driver.quit()
