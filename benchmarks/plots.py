"""The picture of a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

COLOURS = {"training": "#1f5fa8", "training_graph": "#8fb8de"}
"""The modes that are drawn."""


def draw_ratios(
    labels: Sequence[str], ratios: Mapping[str, Sequence[float | None]], title: str, target: Path
) -> None:
    """Bars of the ratios by mode, one row per shape and peer; 1 is the peer's own time.

    Args:
        labels: of the rows.
        ratios: by the mode's words, one number per row.
        title: above the picture.
        target: PNG file.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(9, 1.5 + 0.42 * len(labels)), layout="constrained")
    bars = zip(ratios.items(), COLOURS.values(), strict=True)
    for offset, ((words, values), colour) in enumerate(bars):
        places = [row + 0.38 * offset for row in range(len(labels))]
        drawn = axes.barh(places, [v or 0.0 for v in values], 0.36, label=words, color=colour)
        texts = ["-" if v is None else f"{v:.2f}" for v in values]
        axes.bar_label(drawn, texts, padding=3, fontsize=8)
    axes.set_yticks([row + 0.19 for row in range(len(labels))], labels, fontsize=8)
    axes.invert_yaxis()
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_xlabel("times faster than the peer")
    axes.set_title(title, fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    if labels:
        figure.legend(loc="outside lower center", ncols=len(ratios), frameon=False, fontsize=8)
    figure.savefig(target, dpi=110)
    pyplot.close(figure)
