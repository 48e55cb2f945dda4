"""A headless Chromium that says what is wrong with a page."""

from __future__ import annotations

import json
import shutil
import subprocess
from html import unescape
from pathlib import Path
from typing import Any

import pytest

__all__ = ["inspect_page"]

# Written into a copy of the page: collects errors from the start, and measures after loading.
_PROBE = """<script>
const errors = [];
addEventListener("error", event =>
  errors.push(String(event.message || event.target.outerHTML)), true);
addEventListener("securitypolicyviolation", event => errors.push("blocked " + event.blockedURI));
console.error = console.warn = (...words) => errors.push(words.join(" "));
addEventListener("load", () => {
  const wide = [...document.querySelectorAll("body *")].filter(element =>
    element.getBoundingClientRect().right > innerWidth + 1 && !element.closest(".scroll"));
  const tiny = [...document.querySelectorAll("body *")].filter(element =>
    element.childNodes.length && element.offsetParent
    && parseFloat(getComputedStyle(element).fontSize) < 9);
  document.documentElement.dataset.found = JSON.stringify({
    errors,
    images: [...document.images].map(image => image.complete && image.naturalWidth > 0),
    width: innerWidth,
    overflow: document.documentElement.scrollWidth - innerWidth,
    wide: wide.map(element => element.outerHTML.slice(0, 80)),
    tiny: tiny.map(element => element.outerHTML.slice(0, 80)),
  });
});
</script>"""
# Whatever the page asks for from outside itself is blocked, and counts as an error.
_POLICY = (
    '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
    "style-src 'unsafe-inline'; script-src 'unsafe-inline'\">"
)


def inspect_page(page: str, width: int, folder: Path) -> dict[str, Any]:
    """Open a page and return its errors, images, and what does not fit the width.

    Chromium's window is at least 500 pixels wide, so the page is opened in a frame.
    """
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("needs Debian's chromium to open the report")
    (folder / "page.html").write_text(page.replace("<head>", f"<head>{_POLICY}{_PROBE}"), "utf-8")
    (folder / "frame.html").write_text(
        f'<iframe src="page.html" style="width:{width}px;height:900px;border:0"></iframe>'
        "<script>addEventListener('load', () => { document.documentElement.dataset.found = "
        "frames[0].document.documentElement.dataset.found; });</script>",
        "utf-8",
    )
    command = [
        *(chromium, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic"),
        *("--no-first-run", "--disable-background-networking", "--disable-component-update"),
        *("--disable-sync", "--allow-file-access-from-files", "--hide-scrollbars"),
        *(f"--user-data-dir={folder / 'profile'}", f"--window-size={width + 100},1000"),
        *("--virtual-time-budget=10000", "--dump-dom", (folder / "frame.html").as_uri()),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    _, _, rest = done.stdout.partition('data-found="')
    assert rest, done.stderr
    found: dict[str, Any] = json.loads(unescape(rest.partition('"')[0]))
    return found
