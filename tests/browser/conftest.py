"""A headless Chromium from Debian, with logs of requests and of errors, and the page of a made-up run."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dpc.report import write_page
from dpc.types import Record
from tests.report.examples import HOSTILE
from tests.report.made_run import rows, write_run

N = 1000
OWNED = [
    "<script>document.title='owned';owned=1</script>",
    "</script><script>owned=1</script>",
    "<img src=x onerror=owned=1>",
]
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
PATIENCE = 20


class Browser:
    """What tests do with a page. Widths are in pixels."""

    def __init__(self, profile: Path) -> None:
        from selenium.webdriver import Chrome, ChromeOptions
        from selenium.webdriver.chrome.service import Service

        options = ChromeOptions()
        options.binary_location = CHROMIUM or ""
        flags = ("headless=new", "no-sandbox", "disable-gpu", "no-first-run", "disable-background-networking")
        for flag in (*flags, "disable-component-update", "disable-sync", f"user-data-dir={profile}"):
            options.add_argument(f"--{flag}")
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        self.driver = Chrome(options=options, service=Service(DRIVER))

    def open(self, address: str, width: int = 1440, *, dark: bool = False) -> None:
        """Open an address as a fresh page."""
        self.driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False},
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
        self.driver.get("about:blank")
        self.log("performance")
        self.driver.get(address)

    def run(self, code: str, *arguments: Any) -> Any:
        """Run JavaScript; ``$`` and ``$$`` find elements."""
        helpers = "const $ = (s) => document.querySelector(s), $$ = (s) => [...document.querySelectorAll(s)];"
        return self.driver.execute_script(helpers + code, *arguments)

    def wait(self, code: str, *arguments: Any) -> Any:
        """The first true value of a JavaScript expression."""
        end = time.monotonic() + PATIENCE
        while not (found := self.run(f"return {code};", *arguments)):
            assert time.monotonic() < end, f"never true: {code}"
            time.sleep(0.02)
        return found

    def text(self, selector: str) -> str:
        """All text of the first such element, as it stands in the document."""
        found: str = self.wait(f"$({json.dumps(selector)})?.textContent")
        return found

    def press(self, *keys: str) -> None:
        """Press keys where the focus is: characters, or names like ``ARROW_DOWN``."""
        from selenium.webdriver.common.keys import Keys

        for key in keys:
            self.driver.switch_to.active_element.send_keys(getattr(Keys, key, key))

    def log(self, kind: str) -> list[dict[str, Any]]:
        """What the browser wrote down since it was last asked."""
        found: list[dict[str, Any]] = self.driver.get_log(kind)
        return found

    def requests(self) -> list[str]:
        """Addresses that the page asked for since it was opened."""
        messages = [json.loads(entry["message"])["message"] for entry in self.log("performance")]
        return [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if CHROMIUM is None or DRIVER is None:
        pytest.skip("no chromium with chromedriver here: apt-get install chromium chromium-driver")
    browser = Browser(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.driver.quit()


@pytest.fixture
def browser(chromium: Browser) -> Iterator[Browser]:
    """The browser, for pages that may not make it complain."""
    chromium.log("browser")
    yield chromium
    assert [entry["message"] for entry in chromium.log("browser")] == []


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Record]]:
    path = tmp_path_factory.mktemp("run")
    made = write_run(path, rows(N, [*OWNED, *HOSTILE]))
    write_page(path)
    return path, made["dpc"]


@pytest.fixture(scope="session")
def page(run: tuple[Path, Any]) -> str:
    return (run[0] / "report.html").as_uri()
