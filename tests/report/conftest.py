"""What the tests of the page in a browser share: one headless Chromium, and pages opened in it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from programs.benchmarks.page import browser
from tp_dspy import TransferResult
from tp_dspy.report.page import write_page


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A headless Chromium; where there is none, the test is skipped."""
    pytest.importorskip("selenium", reason="selenium is not installed (uv sync)")
    programs = {name: shutil.which(name) for name in ("chromium", "chromedriver")}
    missing = [name for name, path in programs.items() if path is None]
    if missing:
        pytest.skip(f"{' and '.join(missing)} not installed (Debian: apt-get install chromium chromium-driver)")
    with browser(tmp_path_factory.mktemp("chromium"), programs["chromium"], programs["chromedriver"]) as driver:
        yield driver


class Page:
    """A page that is open, as a reader sees it."""

    def __init__(self, driver: Any, path: Path) -> None:
        self.driver = driver
        self.path = path

    def run(self, script: str, *values: Any) -> Any:
        return self.driver.execute_script(script, *values)

    def all(self, css: str) -> list[Any]:
        return list(self.driver.find_elements("css selector", css))

    def one(self, css: str) -> Any:
        return self.driver.find_element("css selector", css)

    def click(self, css: str) -> None:
        self.one(css).click()

    def column(self, name: str) -> list[str]:
        """The cells of a column of the candidates, as text, first line only."""
        cells = self.run(
            "return [...document.querySelectorAll('#candidates-table tr.row > td')]"
            ".filter((cell) => cell.dataset.label === arguments[0]).map((cell) => cell.innerText)",
            name,
        )
        return [cell.split("\n")[0].strip() for cell in cells]

    def choose(self, control: str, value: str) -> None:
        self.run(
            "const select = document.getElementById(arguments[0]); select.value = arguments[1];"
            "select.dispatchEvent(new Event('change'))",
            control,
            value,
        )

    def complaints(self) -> list[str]:
        """What the console says."""
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def requests(self) -> list[str]:
        """The addresses that were asked for since the last call."""
        events = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        return [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Write the page of a result, once: the plots take seconds."""
    # With the result, so that its id is not another's.
    known: dict[Any, tuple[TransferResult, Path]] = {}

    def write(result: TransferResult, refresh: float | None) -> Path:
        key = id(result), refresh
        if key not in known:
            known[key] = result, write_page(result, tmp_path_factory.mktemp("page") / "report.html", refresh=refresh)
        return known[key][1]

    return write


@pytest.fixture
def opened(chromium: Any, written: Callable[..., Path], tmp_path: Path) -> Iterator[Callable[..., Page]]:
    """Write the page of a result and open it, in a window of a desktop or of the width asked for."""

    def open_(result: TransferResult, *, width: int = 1280, refresh: float | None = None) -> Page:
        metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        chromium.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        path = written(result, refresh)
        for log in ("browser", "performance"):
            chromium.get_log(log)
        chromium.get(path.as_uri())
        return Page(chromium, path)

    yield open_
    # What a reader did is kept when the page is left: so it is forgotten from another page.
    empty = tmp_path / "empty.html"
    empty.write_text("<!doctype html><title>empty</title>")
    chromium.get(empty.as_uri())
    chromium.execute_script("sessionStorage.clear(); localStorage.clear()")
