"""Draw docs/pictures/peers.png, error against seconds of training, from benchmarks/peers.py's JSON, with Chromium.

pip install playwright
python benchmarks/peers.py --seconds 300 --json peers.json
python tools/make_peers_plot.py peers.json
"""

import json
import shutil
import sys
from pathlib import Path

import plotly.graph_objects as go
from playwright.sync_api import sync_playwright

PICTURE = Path(__file__).parent.parent / "docs" / "pictures" / "peers.png"
SHOWN = {  # name, colour
    "pca": ("PCA", "#7b828d"),
    "sae-lp": ("SAE-LP, published recipe", "#1f5fa8"),
    "sae-lp-short": ("SAE-LP, short recipe", "#78aef0"),
    "residual": ("residual network", "#2b8a5b"),
    "spiral": ("SpiralNet++", "#bf5b14"),
}
MOST_MM = 100


def main(path):
    found = json.loads(Path(path).read_text(encoding="utf-8"))
    figure = go.Figure()
    for name, curve in found["curves_s_mm"].items():
        label, colour = SHOWN[name]
        seconds, errors_mm = zip(*(point for point in curve if point[1] < 2 * MOST_MM), strict=True)
        if name == "pca":
            seconds, errors_mm = (*seconds, found["seconds"]), (*errors_mm, *errors_mm)
        line = {"color": colour, "width": 2.5, "dash": "dot" if name == "pca" else "solid"}
        figure.add_scatter(x=seconds, y=errors_mm, name=label, mode="lines", line=line)
    ticks = [1, 3, 10, 30, 100, 300]
    figure.update_xaxes(title="seconds of training, two CPU cores", type="log", tickvals=ticks, range=[-0.4, 2.5])
    figure.update_yaxes(title="error on test meshes, mm", range=[0, MOST_MM])
    legend = {"x": 0.99, "xanchor": "right", "y": 0.99, "bgcolor": "white"}
    figure.update_layout(template="plotly_white", width=900, height=480, legend=legend, font={"size": 15})
    figure.update_layout(margin={"l": 20, "r": 20, "t": 20, "b": 20})
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 900, "height": 480}, device_scale_factor=1.5)
        page.set_content(figure.to_html(include_plotlyjs=True, config={"staticPlot": True}))
        page.wait_for_selector(".main-svg")
        page.locator(".plotly-graph-div").screenshot(path=PICTURE)


if __name__ == "__main__":
    main(*sys.argv[1:])
