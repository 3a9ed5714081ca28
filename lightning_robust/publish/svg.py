"""Figures as SVG that follow the colours and the font of the page they stand in."""

import io
import re
from typing import Any

import matplotlib
from matplotlib.figure import Figure

THEME = {
    "#000000": "ink",
    "#262626": "ink",
    "#b0b0b0": "grid",
    "#cccccc": "grid",
    "#1f77b4": "series-1",
    "#ff7f0e": "series-2",
    "#2ca02c": "series-3",
    "#d62728": "series-4",
    "#9467bd": "series-5",
    "#8c564b": "series-6",
}
"""Which custom property of the page's style each of matplotlib's default colours stands for."""


_FONTS = re.compile(r"'?DejaVu Sans'?[^;]*")
"""The font, and those to be taken where it is missing."""


def themed_svg(figure: Figure, salt: str) -> str:
    """Return a figure as SVG to be placed in HTML.

    Its default colours become custom properties, so that it is readable on light and on dark pages, and its text stays
    text. The same figure gives the same bytes.

    Args:
        figure: drawn in matplotlib's default colours.
        salt: tells the figures of one page apart, whose parts refer to each other by name.

    Example:
        >>> figure = Figure(figsize=(2, 2))
        >>> line = figure.subplots().plot([0, 1])
        >>> "stroke: var(--series-1)" in themed_svg(figure, "example")
        True
    """
    settings: Any = {"svg.fonttype": "none", "svg.hashsalt": salt, "font.family": "sans-serif"}
    written = io.StringIO()
    with matplotlib.rc_context(settings):
        figure.savefig(written, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = written.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"(<svg[^>]*?) width=\"[^\"]*\"", r"\1", re.sub(r"(<svg[^>]*?) height=\"[^\"]*\"", r"\1", text))
    text = re.sub(r"\bid=\"((?:figure|axes|patch|line2d|text|legend|xtick|ytick|matplotlib)[^\"]*)\"", "", text)
    text = re.sub(r"#[0-9a-f]{6}\b", lambda colour: _property(colour.group()), text)
    text = re.sub(r"<text (?![^>]*fill)style=\"", '<text style="fill: var(--ink); ', text)
    return re.sub(r"(?<=style=\")[^\"]*", lambda style: re.sub(_FONTS, "var(--font)", style.group()), text)


def _property(colour: str) -> str:
    return f"var(--{THEME[colour]})" if colour in THEME else colour
