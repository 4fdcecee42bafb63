"""The Ray dashboard in headless chromium: for tests on this machine, and as a command on a PC of a box.

`python -m tests.jobs.dashboard` reads {"url", "token", "pages": [{"path", "wanted", "picture"}]} from stdin: it logs
in, opens each page, waits until all of `wanted` stand there, takes a picture, and prints the page's text.
"""

import contextlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.common.exceptions import NoSuchElementException, StaleElementReferenceException, TimeoutException
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait

from tests.needs import lacking

PATIENCE_S = 120


@contextlib.contextmanager
def chromium() -> Iterator[webdriver.Chrome]:
    """A browser with a profile of its own; skips the test where there is none, and fails it in CI."""
    programs = shutil.which("chromium"), shutil.which("chromedriver")
    if None in programs:
        lacking("chromium and chromium-driver are not installed (apt install chromium chromium-driver)")
    with tempfile.TemporaryDirectory(prefix="vr-browser-", ignore_cleanup_errors=True) as profile:
        options = webdriver.ChromeOptions()
        options.binary_location = programs[0]
        for switch in (
            "headless=new", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run",
            "disable-background-networking", "disable-component-update", "disable-sync", "disable-dev-shm-usage",
            "window-size=2400,1800", f"user-data-dir={profile}",
        ):  # fmt: skip
            options.add_argument(f"--{switch}")
        driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(programs[1]))
        try:
            yield driver
        finally:
            driver.quit()


def await_page(browser: webdriver.Chrome, wanted: Callable[[str], object]) -> str:
    """Text of the page as soon as it is as wanted. Meanwhile it may load anew, as it does when it has the token."""
    text = ""

    def as_wanted(page: webdriver.Chrome) -> bool:
        nonlocal text
        text = page.find_element(By.TAG_NAME, "body").text
        return bool(wanted(text))

    # While a page loads there is no body, or the one that was found has gone with the page before.
    loading = (NoSuchElementException, StaleElementReferenceException)
    try:
        WebDriverWait(browser, PATIENCE_S, 0.2, ignored_exceptions=loading).until(as_wanted)
    except TimeoutException:
        pytest.fail(f"not on {browser.current_url} after {PATIENCE_S} s: {text[:6000]}")
    return text


def log_in(browser: webdriver.Chrome, token: str) -> None:
    """Give the page the token that it asks for."""
    await_page(browser, lambda text: "Authentication Token Required" in text)
    browser.find_element(By.CSS_SELECTOR, "input[type=password]").send_keys(token)
    next(b for b in browser.find_elements(By.TAG_NAME, "button") if b.text.upper() == "SUBMIT").click()


def show_many_rows(browser: webdriver.Chrome) -> None:
    """500, which is the most that a page of a table holds; at first it holds 10."""
    [size] = [e for e in browser.find_elements(By.CSS_SELECTOR, "input[type=text]") if e.get_attribute("value") == "10"]
    size.send_keys("00")


def keep_picture(browser: webdriver.Chrome, path: Path) -> None:
    """A picture of the page, which is handed on by `keep_artefact`."""
    assert browser.save_screenshot(str(path))
    keep_artefact(path)


def keep_artefact(picture: Path) -> None:
    """A copy of `picture` for who looks at what CI saw, where that says where it collects."""
    assert picture.stat().st_size > 10_000
    artefacts = os.environ.get("CI_ARTIFACTS")
    if artefacts:
        Path(artefacts).mkdir(parents=True, exist_ok=True)
        shutil.copy(picture, artefacts)


def main() -> None:
    """Visit what stdin says, on the PC where this runs."""
    asked = json.loads(sys.stdin.read())
    with chromium() as browser:
        for number, page in enumerate(asked["pages"]):
            browser.get(f"{asked['url']}/{page['path']}")
            if number == 0:
                log_in(browser, asked["token"])
            text = await_page(browser, lambda text, page=page: all(word in text for word in page["wanted"]))
            keep_picture(browser, Path(page["picture"]))
            print(text)


if __name__ == "__main__":
    main()
