"""Make the screenshots of a report, report.png and report-dark-phone.png in docs/pictures, with Chromium.

pip install pillow playwright
python tools/make_report_pictures.py runs/demo/report.html
"""

import io
import shutil
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

DOCS = Path(__file__).parent.parent / "docs" / "pictures"
CHROMIUM = ["--no-sandbox", "--disable-gpu", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
DESKTOP = {"viewport": {"width": 1200, "height": 900}}
PHONE = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "device_scale_factor": 1.5}
GAP = 24  # pixels


def open_report(browser, url, **options):
    page = browser.new_context(**options).new_page()
    page.goto(url)
    page.wait_for_selector("html[data-drawn]")
    page.wait_for_timeout(2000)
    return page


def main(report):
    """The page from the top to the section on errors, and three screens of a phone side by side."""
    url = Path(report).absolute().as_uri()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=CHROMIUM)
        page = open_report(browser, url, **DESKTOP)
        errors = page.locator("#errors").bounding_box()
        whole = {"x": 0, "y": 0, "width": 1200, "height": errors["y"] + errors["height"] + GAP}
        page.screenshot(path=DOCS / "report.png", clip=whole, full_page=True)

        page, screens = open_report(browser, url, color_scheme="dark", **PHONE), []
        for shown in ("h1", '[data-shown="0"]', "#move h3"):
            page.evaluate("name => document.querySelector(name).scrollIntoView({block: 'center'})", shown)
            page.wait_for_timeout(1000)
            screens.append(Image.open(io.BytesIO(page.screenshot())).convert("RGBA"))
        width, height = screens[0].size
        strip = Image.new("RGBA", (3 * width + 2 * GAP, height))
        for i, screen in enumerate(screens):
            strip.paste(screen, (i * (width + GAP), 0))
        strip.save(DOCS / "report-dark-phone.png", optimize=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
