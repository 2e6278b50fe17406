"""The report in a real browser, on the screen and on paper."""

import html
import json
import re
import shutil
import subprocess
from dataclasses import replace

import pytest
from tests.report.conftest import renamed
from tests.report.tree import parse

from sam_bloodcell.report import write_report

# Notes in the page what a reader would stumble over: errors, images that did not load, text cut off or off the page.
LOOK = """<script>
const found = {width: innerWidth, errors: [], images: 0, broken: 0, clipped: []};
addEventListener("error", (event) => found.errors.push(String(event.message || event.target.src)), true);
addEventListener("load", () => {
  for (const image of document.images) { found.images++; if (!image.naturalWidth) found.broken++; }
  if (document.documentElement.scrollWidth > document.documentElement.clientWidth) found.clipped.push("page");
  for (const element of document.querySelectorAll("body *")) {
    const hides = ["hidden", "clip"].includes(getComputedStyle(element).overflowX);
    if (hides && element.scrollWidth > element.clientWidth) found.clipped.push(element.tagName);
  }
  parent.postMessage(JSON.stringify(found), "*");
});
</script>"""
FRAME = """<body>
<script>addEventListener("message", (event) => {{ document.body.dataset.found = event.data; }});</script>
<iframe src="page.html" style="width: {width}px; height: 900px; border: 0"></iframe>"""


def chromium(page, folder, *options):
    """Open a page in a browser, and return what it prints."""
    path = folder / "report.html"
    path.write_text(page, "utf-8")
    command = [
        "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
        f"--user-data-dir={folder / 'profile'}", "--enable-logging=stderr", "--virtual-time-budget=5000", *options,
        path.as_uri(),
    ]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)


@pytest.fixture(scope="module")
def page_of_three(three, result, tmp_path_factory):
    """Three laboratories with long names, as they are printed."""
    long = [f"Laboratory of the university hospital of {town}" for town in ("Munich", "Lyon", "Seville")]
    classes = ["neutrophil_segmented", "neutrophil_banded", "lymphocyte_atypical", "promyelocyte", "erythroblast"]
    named = renamed(three, long, classes, ["lab 00", "lab 01", "lab 02"])
    named = replace(named, settings=result.settings)
    return write_report(named, tmp_path_factory.mktemp("three")).read_text("utf-8")


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs Chromium")
@pytest.mark.parametrize("width", [1300, 420])
def test_page_in_a_real_browser(page_of_three, width, tmp_path):
    # In a frame, because a window of headless Chromium is at least 500 px wide.
    opened = page_of_three.replace("<head>", f"<head>{LOOK}").replace("<details", "<details open")
    (tmp_path / "page.html").write_text(opened, "utf-8")
    shown = chromium(FRAME.format(width=width), tmp_path, "--window-size=1400,900", "--dump-dom")
    assert "CONSOLE" not in shown.stderr
    found = json.loads(html.unescape(re.search(r'data-found="([^"]*)"', shown.stdout)[1]))
    images = len(list(parse(page_of_three).all("img")))
    assert found == {"width": width, "errors": [], "images": images, "broken": 0, "clipped": []}


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs Chromium")
def test_three_laboratories_print_on_six_pages_at_most(page_of_three, tmp_path):
    chromium(page_of_three, tmp_path, "--no-pdf-header-footer", f"--print-to-pdf={tmp_path / 'report.pdf'}")
    n_pages = len(re.findall(rb"/Type\s*/Page\b(?!s)", (tmp_path / "report.pdf").read_bytes()))
    assert 2 <= n_pages <= 6
