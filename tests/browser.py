"""A headless Chromium for the tests of pages."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import Browser, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
INSTALL = (["timeout", "60", "apt-get", "update"], ["timeout", "240", "apt-get", "install", "-y", "chromium"])


def find_chromium() -> str:
    """The path of a Chromium or Chrome; where root may install Debian's, it is installed. Skips without one."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None and os.geteuid() == 0 and shutil.which("apt-get"):
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        for command in INSTALL:
            subprocess.run(command, env=environment, capture_output=True, check=False)
        found = shutil.which("chromium")
    if found is None:
        pytest.skip("no Chromium or Chrome here, and it cannot be installed")
    return found


@contextmanager
def chromium() -> Iterator[Browser]:
    """A browser that draws by software, as no GPU is needed."""
    # Chromium's sandbox does not work for root, nor in most containers.
    flags = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=flags)
        yield browser
        browser.close()
