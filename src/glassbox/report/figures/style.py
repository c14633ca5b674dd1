"""What all figures share: sizes, colours, a marker and a line per group, and how a figure becomes a file or SVG."""

from __future__ import annotations

import hashlib
import html
import io
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

PAGE, INK, MUTED, GRID, BAND = "#ffffff", "#1b1f24", "#5c6670", "#d9dee3", "#e6ebf0"
SEED, TEACHER = "#2f6db3", "#a8480f"
PALETTE = (
    *("#69727b", "#22272d", "#1f66ad", "#c2570c", "#86358c"),
    *("#1d7a4b", "#7c7f1e", "#2b8a9e", "#b04a63"),
)
MARKERS = "osD^vPX<>"
LINES: tuple[Any, ...] = (
    *((0, (1, 1.5)), "solid", (0, (6, 2)), (0, (3, 1.5, 1, 1.5)), (0, (8, 2, 2, 2, 2, 2))),
    *((0, (4, 4)), (0, (1, 3)), (0, (2, 2)), (0, (5, 1))),
)
VARIABLES = {
    **{PAGE: "--page", INK: "--ink", MUTED: "--muted", GRID: "--grid", BAND: "--band"},
    **{SEED: "--seed", TEACHER: "--teacher"},
    **{colour: f"--group-{place}" for place, colour in enumerate(PALETTE)},
}
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "glassbox",
    "font.family": "sans-serif",
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.width": 0.8,
    "ytick.major.width": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "legend.frameon": False,
    "legend.handlelength": 3.2,
}
WIDE, NARROW = 9.6, 4.1
SMALL = 8.0


@dataclass(frozen=True)
class Mark:
    """How one group is drawn in every figure: told apart by marker and line as well as by colour."""

    colour: str
    marker: str
    line: Any


def group_marks(results: Mapping[str, Any]) -> dict[str, Mark]:
    return {
        entry["group"]: Mark(PALETTE[place % len(PALETTE)], MARKERS[place % len(MARKERS)], LINES[place % len(LINES)])
        for place, entry in enumerate(results["groups"])
    }


def figure_width(narrow: bool) -> float:
    """Inches: the wide figure fills a page, the narrow one a telephone."""
    return NARROW if narrow else WIDE


def panel_grid(n_panels: int, columns: int, size: tuple[float, float], **options: Any) -> tuple[Figure, list[Axes]]:
    """n_panels axes in rows of `columns`, the rest of the last row left empty. size: inches of the whole figure."""
    rows = -(-n_panels // columns)
    figure, grid = plt.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained", **options)
    panels = [axes for row in grid for axes in row]
    for axes in panels[n_panels:]:
        axes.remove()
    return figure, panels[:n_panels]


def add_legend(figure: Figure, panels: Iterable[Axes], place: str, columns: int) -> None:
    """One legend outside of all panels, each name once. place: `upper` or `lower`."""
    named = {label: handle for axes in panels for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    location: Any = f"outside {place} center"
    figure.legend(list(named.values()), list(named), loc=location, ncols=min(columns, len(named) or 1))


def arranged(figure: Figure) -> Figure:
    """The figure with its layout computed once and for all; else each way of saving it computes and draws it again."""
    engine = figure.get_layout_engine()
    if engine is not None:
        engine.execute(figure)
        figure.set_layout_engine(None)
    return figure


def svg_text(figure: Figure) -> str:
    """A whole SVG file; the same figure gives the same text."""
    buffer = io.StringIO()
    with plt.rc_context(STYLE):
        figure.savefig(buffer, format="svg", metadata={"Date": None}, facecolor=PAGE)
    return buffer.getvalue()


def write_png(figure: Figure, path: Path) -> None:
    with plt.rc_context(STYLE):
        figure.savefig(path, dpi=150, facecolor=PAGE, metadata={"Software": None})


def inline_svg(svg: str, name: str, title: str, description: str) -> str:
    """A figure's SVG as an element of the page: colours are its CSS variables, and ids are the figure's own."""
    svg = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = re.sub("|".join(VARIABLES), lambda colour: f"var({VARIABLES[colour[0].lower()]})", svg, flags=re.IGNORECASE)
    svg = re.sub(r"<[^>]*>", lambda tag: _shortened(tag[0]), svg)
    used = {*re.findall(r'(?:href="#|url\(#)([^")]+)', svg)}
    svg = re.sub(r' id="([^"]+)"', lambda found: found[0] if found[1] in used else "", svg)
    svg = re.sub(r'( id="|href="#|url\(#)', rf"\g<1>{name}-", svg)
    svg = _without_bare_groups(re.sub(r">\s+<", "><", svg))
    rules: dict[str, str] = {}
    svg = re.sub(r' style="([^"]*)"', lambda style: f' class="{_class_of(style[1], rules)}"', svg)
    svg = svg.replace("</style>", "".join(f".{each}{{{style}}}" for style, each in rules.items()) + "</style>", 1)
    opening = svg[: svg.index(">") + 1]
    bare = re.sub(r' (width|height)="[^"]*"', "", opening)
    named = bare.replace("<svg", f'<svg role="img" aria-labelledby="{name}-title" aria-describedby="{name}-text"', 1)
    words = (
        f'<title id="{name}-title">{html.escape(title)}</title><desc id="{name}-text">{html.escape(description)}</desc>'
    )
    return f"{named}{words}{svg[len(opening) :]}"


def _shortened(tag: str) -> str:
    """An element's opening with coordinates to a tenth of a point, and without blanks that say nothing."""
    tag = re.sub(r"(\d\.\d)\d+", r"\1", " ".join(tag.split()))
    tag = re.sub(r' d="[^"]*"', lambda path: re.sub(r" ?([A-Za-z]) (?=[-\d])", r"\1", path[0]), tag)
    return re.sub(r' style="[^"]*"', lambda style: style[0].replace(": ", ":").replace("; ", ";"), tag)


def _class_of(style: str, rules: dict[str, str]) -> str:
    """A class that stands for the style in every figure of the page alike."""
    return rules.setdefault(style, f"k{hashlib.sha256(style.encode()).hexdigest()[:6]}")


def _without_bare_groups(svg: str) -> str:
    """The figure without <g> elements that have no attribute, their content kept."""
    kept: list[bool] = []

    def tag(found: re.Match[str]) -> str:
        if found[0] != "</g>":
            kept.append(found[0] != "<g>")
            return found[0] if kept[-1] else ""
        return found[0] if kept.pop() else ""

    return re.sub(r"</?g(?: [^>]*)?>", tag, svg)
