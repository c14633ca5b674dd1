"""The figures of the report, each a module that draws results.json and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from glassbox.report.figures import costs, curves, forest, gains, interaction, scores
from glassbox.report.figures.style import arranged, inline_svg, svg_text, write_png


class Drawing(Protocol):
    """NAME: the file's stem. LINE: what it shows, in a line. `narrow` is for telephones.

    draw returns None where there is nothing to show.
    """

    @property
    def NAME(self) -> str: ...
    @property
    def TITLE(self) -> str: ...
    @property
    def LINE(self) -> str: ...

    def draw(self, results: Mapping[str, Any], narrow: bool = False) -> Figure | None: ...
    def caption(self, results: Mapping[str, Any]) -> str: ...
    def describe(self, results: Mapping[str, Any]) -> str: ...


DRAWINGS: tuple[Drawing, ...] = (gains, forest, scores, interaction, curves, costs)


def draw_figures(results: Mapping[str, Any], folder: Path) -> list[dict[str, str]]:
    """Write every figure as SVG and PNG.

    Returns name, title, line, caption and the wide and the narrow inline <svg> of each, in the page's order.
    """
    shown = []
    for drawing in DRAWINGS:
        wide, narrow = drawing.draw(results), drawing.draw(results, narrow=True)
        if wide is None or narrow is None:
            continue
        words = drawing.TITLE, drawing.describe(results)
        svgs = [svg_text(arranged(figure)) for figure in (wide, narrow)]
        (folder / f"{drawing.NAME}.svg").write_text(svgs[0], encoding="utf-8", newline="\n")
        write_png(wide, folder / f"{drawing.NAME}.png")
        shown.append(
            {
                "name": drawing.NAME,
                "title": drawing.TITLE,
                "line": drawing.LINE,
                "caption": drawing.caption(results),
                "wide": inline_svg(svgs[0], f"wide-{drawing.NAME}", *words),
                "narrow": inline_svg(svgs[1], f"narrow-{drawing.NAME}", *words),
            }
        )
        plt.close(wide)
        plt.close(narrow)
    return shown
