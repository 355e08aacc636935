"""A matplotlib figure as SVG that goes into a page as it is: no scripts, no ids that clash, colours for light and dark.

Text stays text, drawn in the page's own font and colour. Names come from models that strangers made: they are never
read as formulas, characters that XML can't hold are replaced, and matplotlib escapes what it writes. The same drawing
gives the same bytes.
"""

from __future__ import annotations

import io
import re
import warnings
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

WIDTH = 9.6
"""Inches."""
INK = "#010203"
"""Becomes the colour of the page's text."""
SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "axes.unicode_minus": False,
    "font.family": "sans-serif",
    "font.size": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 8,
    "axes.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 8,
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK),
}
UNPRINTABLE = re.compile("[^\t\n -~\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
DECIMALS = re.compile(r"(?<=\.\d\d)\d+")


def label(text: object, limit: int = 34) -> str:
    """A name for a picture: on one line, in printable characters, its end kept where it is long."""
    plain = UNPRINTABLE.sub("\ufffd", " ".join(str(text).split()))
    return plain if len(plain) <= limit else f"\u2026{plain[1 - limit :]}"


def legend(figure: Figure, axes: Axes) -> None:
    """What the marks of some axes mean, in a row above the picture."""
    handles, names = axes.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper left", ncols=max(len(names), 1))


class Drawing:
    """A figure of some height in inches, and its SVG once the block ends."""

    def __init__(self, name: str, height: float) -> None:
        self._name, self._height = name, height
        self.svg = ""

    def __enter__(self) -> Drawing:
        self._context = matplotlib.rc_context({**SETTINGS, "svg.hashsalt": self._name})
        self._context.__enter__()
        self.figure = Figure(figsize=(WIDTH, self._height), layout="constrained")
        return self

    def __exit__(self, *error: object) -> None:
        try:
            if error[0] is None:
                self.svg = _svg(self.figure)
        finally:
            self._context.__exit__(None, None, None)


def _svg(figure: Figure) -> str:
    """What matplotlib writes, without its header, its style and the ids that nothing refers to."""
    stream = io.StringIO()
    with warnings.catch_warnings():
        # The reader's browser has the glyphs that matplotlib's own font lacks.
        warnings.filterwarnings("ignore", message="Glyph", category=UserWarning)
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(stream, format="svg", transparent=True, metadata=nothing)
    text = stream.getvalue()
    text = re.sub(r"<!--.*?-->|<style type=.*?</style>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r' (?:d|x|y|transform|points)="[^"]*"', lambda found: DECIMALS.sub("", found[0]), text)
    used = set(re.findall(r'(?:url\(#|href="#)([^)"]+)', text))
    text = re.sub(r' id="([^"]*)"', lambda found: found[0] if found[1] in used else "", text)
    text = re.sub(r"\n\s*", "\n", text.replace(INK, "currentColor"))
    return re.sub(r'<svg [^>]*?viewBox="([^"]*)"[^>]*>', _opening, text, count=1)


def _opening(found: re.Match[str]) -> str:
    return f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="{found[1]}">'
