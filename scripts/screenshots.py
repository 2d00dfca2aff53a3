"""Write the pictures of the README from a run: ``python scripts/screenshots.py runs/demo``. Needs chromium.

``docs/images/page.png`` is the top of the run's page, ``docs/images/flow.png`` an instance with its heat map.
"""

from __future__ import annotations

import base64
import shutil
import sys
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.support.ui import WebDriverWait

from dpc.report import write_page

IMAGES = Path(__file__).resolve().parent.parent / "docs" / "images"
WIDTH, SCALE = 1280, 1.5
COLOURS = 128


def main(run: Path) -> None:
    """Open the page of ``run`` and write both pictures."""
    options = ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for flag in ("headless=new", "no-sandbox", "disable-gpu", "hide-scrollbars"):
        options.add_argument(f"--{flag}")
    driver = Chrome(options=options, service=Service(shutil.which("chromedriver")))
    metrics = {"width": WIDTH, "height": 900, "deviceScaleFactor": SCALE, "mobile": False}
    try:
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        driver.get(write_page(run).resolve().as_uri())
        WebDriverWait(driver, 20).until(
            lambda d: d.execute_script("return document.querySelector('.flow .map canvas')")
        )
        IMAGES.mkdir(parents=True, exist_ok=True)
        _save(driver, "page.png", "document.body", "document.querySelector('.results').parentElement")
        _save(driver, "flow.png", "document.querySelector('.flow')", "document.querySelector('.flow .plot')")
    finally:
        driver.quit()


def _save(driver: Any, name: str, first: str, last: str) -> None:
    """Write the part of the page from the top of the element ``first`` to the bottom of ``last``."""
    box = driver.execute_script(
        f"const a = {first}.getBoundingClientRect(), b = {last}.getBoundingClientRect();"
        "return {x: a.x + scrollX, y: a.y + scrollY, width: a.width, height: b.bottom - a.top, scale: 1}"
    )
    shot = driver.execute_cdp_cmd("Page.captureScreenshot", {"clip": box, "captureBeyondViewport": True})
    picture = Image.open(BytesIO(base64.b64decode(shot["data"]))).convert("RGB")
    # Few colours: the pictures are part of every checkout.
    picture.quantize(COLOURS).save(IMAGES / name, optimize=True)
    print(IMAGES / name, (IMAGES / name).stat().st_size)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
