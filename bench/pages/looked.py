"""
Look at a viewer's page with Chromium: ``python looked.py URL WIDE TIMES SECONDS``, one JSON line.

WIDE is the id of the trace that is scrolled through for SECONDS. A page is usable when its first
row has been painted: that moment is counted from the start of the navigation, in a fresh profile.
"""

import json
import sys
from pathlib import Path
from statistics import median
from typing import Any

from playwright.sync_api import sync_playwright

CHROMIUM = Path("/usr/bin/chromium")
SWITCHES = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run")
#: Waits for the first row, and for the frame that shows it. The page's policy forbids an ``eval``,
#: which Playwright's own waiting needs.
FIRST_ROW = """
new MutationObserver((_, observer) => {
  if (!document.querySelector(".trace, .span")) return;
  observer.disconnect();
  requestAnimationFrame(() => setTimeout(() => { window.usable = performance.now(); }));
}).observe(document, { childList: true, subtree: true });
"""
#: From a click on the first trace to the frame that shows its first span.
OPENED = """() => new Promise((done) => {
  const begun = performance.now();
  new MutationObserver((_, observer) => {
    if (!document.querySelector(".span")) return;
    observer.disconnect();
    requestAnimationFrame(() => setTimeout(() => done(performance.now() - begun)));
  }).observe(document.querySelector("main"), { childList: true, subtree: true });
  document.querySelector(".trace").click();
})"""
#: Scrolls by STEP pixels a frame, up and down, and notes how long each frame took.
SCROLLED = """([seconds, step]) => new Promise((done) => {
  const list = document.querySelector(".waterfall"), frames = [], tasks = [], rows = [];
  const observer = new PerformanceObserver((seen) => tasks.push(...seen.getEntries()));
  observer.observe({ type: "longtask" });
  const begun = performance.now();
  let last = begun, way = step;
  const turn = (now) => {
    if (now > last) frames.push(now - last);
    last = now;
    rows.push(list.querySelectorAll(".span").length);
    list.scrollTop += way;
    const end = list.scrollHeight - list.clientHeight - 1;
    if (list.scrollTop <= 0 || list.scrollTop >= end) way = -way;
    if (now - begun < seconds * 1000) return requestAnimationFrame(turn);
    observer.disconnect();
    done({ frames: frames.slice(1), tasks: tasks.length, rows: Math.max(...rows) });
  };
  requestAnimationFrame(turn);
})"""
#: Pixels a frame: 7,200 a second, a hard swipe.
STEP = 120


def usable(browser: Any, url: str) -> float:
    """Return the milliseconds until *url* shows its first row, in a profile that knows nothing."""
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    context.add_init_script(FIRST_ROW)
    page = context.new_page()
    page.goto(url)
    page.locator(".trace, .span").first.wait_for()
    while not (found := page.evaluate("window.usable")):
        page.wait_for_timeout(20)
    context.close()
    return float(found)


def opened(browser: Any, url: str) -> float:
    """Return the milliseconds from a click in the list to the first span."""
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    page = context.new_page()
    page.goto(url)
    page.locator(".trace").first.wait_for()
    page.wait_for_timeout(300)  # the page is at rest when a person clicks
    found = page.evaluate(OPENED)
    context.close()
    return float(found)


def scrolled(browser: Any, url: str, seconds: float) -> dict[str, float]:
    """Return how even the frames were while the trace at *url* went by."""
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    page = context.new_page()
    page.goto(url)
    page.locator(".span").first.wait_for()
    page.wait_for_timeout(500)
    found = page.evaluate(SCROLLED, [seconds, STEP])
    context.close()
    frames = sorted(found["frames"])
    return {
        "frame_p50_ms": median(frames),
        "frame_p99_ms": frames[int(len(frames) * 0.99)],
        "frame_max_ms": frames[-1],
        "late_share": sum(frame > 34 for frame in frames) / len(frames),
        "long_tasks": found["tasks"],
        "rows": found["rows"],
    }


def main(url: str, wide: str, times: int, seconds: float) -> None:
    """Look, and tell the medians."""
    address = f"{url}/#/trace/{wide}"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=SWITCHES)
        usable(browser, url)  # the first page of a browser pays for the browser
        told = {
            "list_ms": median(usable(browser, url) for _ in range(times)),
            "found_ms": median(usable(browser, f"{url}/#/?q=order-7") for _ in range(times)),
            "waterfall_ms": median(opened(browser, url) for _ in range(times)),
            "wide_ms": median(usable(browser, address) for _ in range(times)),
            **scrolled(browser, address, seconds),
        }
        browser.close()
    print(json.dumps(told))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4]))
