"""From the numbers of a race to what a person reads: a table, Markdown, a picture.

python -m benchmarks.report out.json      # writes out.md and out.png beside it
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.contenders import OURS
from benchmarks.operators import OPERATORS

Result = Mapping[str, Any]
MODES = {
    "forward": "forward",
    "training": "forward + backward",
    "forward_graph": "forward, CUDA graph",
    "training_graph": "forward + backward, CUDA graph",
}


GAPS = {"missing", "failed", "broken", "skipped"}
"""Keys that tell why something was not measured."""


@dataclass(frozen=True)
class Pair:
    """Ours and one peer at one shape; either may be absent."""

    operator: str
    shape: str
    peer: str
    ours: Result
    theirs: Result

    def ratio(self, mode: str) -> float | None:
        """How many times faster ours is; None if one of the two was not timed or ours is wrong."""
        mine, other = median(self.ours, mode), median(self.theirs, mode)
        if mine is None or other is None or self.ours.get("wrong"):
            return None
        return other / mine


def median(result: Result, mode: str) -> float | None:
    return result[mode]["median"] if mode in result else None


def pairs(data: Mapping[str, Any]) -> Iterator[Pair]:
    """Every peer beside ours, in the order of the run."""
    found: dict[tuple[str, str], dict[str, Result]] = {}
    for result in data["results"]:
        if "contender" in result and "shape" in result:
            key = (result["operator"], result["shape"])
            found.setdefault(key, {})[result["contender"]] = result
    for (operator, shape), results in found.items():
        others = [name for name in results if name != OURS] or ["-"]
        for peer in others:
            mine, theirs = results.get(OURS, {}), results.get(peer, {})
            yield Pair(operator, shape, peer, mine, theirs)


def geometric_mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return math.exp(sum(map(math.log, known)) / len(known)) if known else None


def written(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def error_text(result: Result) -> str:
    """The worst relative error, with a mark where it is no rounding."""
    if "worst_error" not in result:
        return "failed" if "failed" in result else "-"
    value = result["worst_error"]
    return ("nan" if value is None else f"{value:.2g}") + (" !" if result["wrong"] else "")


def progress(result: Result) -> str:
    """One line about a result, as it comes."""
    words = [str(result[key]) for key in ("operator", "shape", "contender") if key in result]
    for key in ("missing", "failed", "broken", "skipped", "compiled", "seconds", "cold_start_s"):
        if key in result:
            words.append(f"{key}: {result[key]}")
    if "ceilings" in result:
        words.append(", ".join(f"{name} {value:.2f}" for name, value in result["ceilings"].items()))
    for mode in MODES:
        if mode in result:
            words.append(f"{mode} {result[mode]['median']:.3f}")
    if "worst_error" in result:
        words.append("error " + error_text(result))
    return "  ".join(words)


def compact_table(data: Mapping[str, Any]) -> str:
    """Plain text, one line per shape and peer, and what went wrong below it."""
    head = f"{'operator':17s}{'BxTxHxD':16s}{'peer':21s}"
    head += "".join(f"{title:>22s}" for title in ("fwd", "fwd+bwd", "fwd+bwd graph"))
    lines = [head + f"{'MiB':>13s}{'error':>19s}", " " * 54 + f"{'ours   peer  ratio':>22s}" * 3]
    rows = list(pairs(data))
    for pair in rows:
        line = f"{pair.operator:17s}{pair.shape:16s}{pair.peer:21s}"
        for mode in ("forward", "training", "training_graph"):
            times = [written(median(side, mode), ".3f") for side in (pair.ours, pair.theirs)]
            line += f"{times[0]:>8s}{times[1]:>8s}{written(pair.ratio(mode), '.2f'):>6s}"
        extra = [written(side.get("peak_extra_mib"), ".0f") for side in (pair.ours, pair.theirs)]
        line += f"{'/'.join(extra):>13s}"
        line += f"{' / '.join(map(error_text, (pair.ours, pair.theirs))):>19s}"
        lines.append(line)
    for mode in ("forward", "training", "training_graph"):
        mean = geometric_mean(pair.ratio(mode) for pair in rows)
        lines.append(f"geometric mean of the ratios, {MODES[mode]}: {written(mean, '.2f')}")
    trouble = [
        progress(result) for result in [*data["results"], *data["compiled"]] if GAPS & set(result)
    ]
    lines += dict.fromkeys(trouble)
    lines += [progress(result) for result in data["cold_start"]]
    return "\n".join(lines)


def markdown(data: Mapping[str, Any], picture: str) -> str:
    """The whole report; ``picture`` is the name of its image file."""
    meta = data["meta"]
    software = [f"{name} {meta[name]}" for name in ("torch", "triton", "fla-core") if meta[name]]
    lines = ["# Races against existing libraries", "", f"{meta['gpu']}, {', '.join(software)}, "]
    lines[-1] += f"{meta['dtype']}. Medians in ms; a ratio above 1 means that seqgen is faster."
    ceilings = meta.get("ceilings")
    if ceilings:
        lines += ["", f"Measured ceilings: copy {ceilings['copy_tb_per_s']:.2f} TB/s, "]
        lines[-1] += f"bf16 product {ceilings['bf16_tflop_per_s']:.0f} TFLOP/s."
    lines += ["", f"![ratios]({picture})"]
    rows = list(pairs(data))
    for operator in dict.fromkeys(pair.operator for pair in rows):
        mine = [pair for pair in rows if pair.operator == operator]
        lines += ["", f"## {operator}", "", _header(), "|" + "---|" * 13]
        lines += [_row(pair, ceilings) for pair in mine]
        lines += [
            "",
            "Relative errors against float64 (RMS), at B = 1 and at most 1024 tokens:",
            "",
        ]
        lines += _errors(mine[0].operator, data)
        notes = {peer.name: peer.note for peer in OPERATORS[operator].peers if peer.note}
        lines += [""] + [f"* {name}: {note}." for name, note in notes.items()]
    if data["cold_start"]:
        lines += ["", "## Cold start", "", "Process start to the end of the first forward and "]
        lines[-1] += "backward, no caches:"
        lines += ["", "| operator | contender | seconds |", "|---|---|---|"]
        for answer in data["cold_start"]:
            value = answer["cold_start_s"] or answer.get("broken")
            lines.append(f"| {answer['operator']} | {answer['contender']} | {value} |")
    gaps = [result for result in data["results"] if GAPS & set(result)]
    if gaps:
        lines += ["", "## Not measured", "", *(f"* {progress(result)}" for result in gaps)]
    lines += ["", "An exclamation mark stands for a wrong result (worst error above 0.05).", ""]
    return "\n".join(lines)


def _header() -> str:
    titles = ["BxTxHxD", "peer"]
    titles += [
        f"{mode} {part}"
        for mode in ("fwd", "fwd+bwd", "graph")
        for part in ("ours", "peer", "ratio")
    ]
    return "| " + " | ".join([*titles, "MiB ours / peer", "of the floor"]) + " |"


def _row(pair: Pair, ceilings: Mapping[str, float] | None) -> str:
    cells = [pair.shape, pair.peer]
    for mode in ("forward", "training", "training_graph"):
        cells += [written(median(side, mode), ".3f") for side in (pair.ours, pair.theirs)]
        cells.append(written(pair.ratio(mode), ".2f"))
    extra = [written(side.get("peak_extra_mib"), ".0f") for side in (pair.ours, pair.theirs)]
    cells.append(" / ".join(extra))
    mine = median(pair.ours, "training")
    floor = None
    if mine is not None and ceilings:
        floor = mine / (pair.ours["training_bytes"] / ceilings["copy_tb_per_s"] * 1e-9)
    cells.append("-" if floor is None else f"{floor:.1f}x")
    return "| " + " | ".join(cells) + " |"


def _errors(operator: str, data: Mapping[str, Any]) -> list[str]:
    checked = [r for r in data["results"] if r["operator"] == operator and "errors" in r]
    names = list(dict.fromkeys(name for result in checked for name in result["errors"]))
    lines = ["| BxTxHxD | contender | " + " | ".join(names) + " |", "|" + "---|" * (2 + len(names))]
    for result in checked:
        values = [result["errors"].get(name) for name in names]
        mark = " !" if result["wrong"] else ""
        cells = [result["shape"], result["contender"] + mark, *(written(v, ".5f") for v in values)]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def draw(data: Mapping[str, Any], target: Path) -> None:
    """Bars of the ratios, forward + backward, one per shape and peer; 1 is the peer's own time."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    rows = [pair for pair in pairs(data) if pair.ratio("training") is not None]
    figure, axes = pyplot.subplots(figsize=(9, 1.5 + 0.42 * len(rows)), layout="constrained")
    styles = (("training", "eager", "#1f5fa8"), ("training_graph", "CUDA graph", "#8fb8de"))
    for offset, (mode, label, colour) in enumerate(styles):
        places = [row + 0.38 * offset for row in range(len(rows))]
        values = [pair.ratio(mode) or 0.0 for pair in rows]
        bars = axes.barh(places, values, 0.36, label=label, color=colour)
        axes.bar_label(bars, [f"{value:.2f}" for value in values], padding=3, fontsize=8)
    labels = [f"{pair.operator}  {pair.shape}\nvs {pair.peer}" for pair in rows]
    axes.set_yticks([row + 0.19 for row in range(len(rows))], labels, fontsize=8)
    axes.invert_yaxis()
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_xlabel("times faster than the peer, forward + backward")
    axes.set_title(f"{data['meta']['gpu']}, {data['meta']['dtype']}", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    if rows:
        axes.legend(frameon=False, fontsize=8)
    figure.savefig(target, dpi=150)
    pyplot.close(figure)


def write(source: Path) -> None:
    """Markdown and PNG beside the JSON file ``source``."""
    data = json.loads(source.read_text(encoding="utf-8"))
    picture = source.with_suffix(".png")
    draw(data, picture)
    source.with_suffix(".md").write_text(markdown(data, picture.name), encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.report", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("json", type=Path, metavar="FILE", help="written by benchmarks.peers")
    parsed = parser.parse_args(arguments)
    write(parsed.json)
    print(compact_table(json.loads(parsed.json.read_text(encoding="utf-8"))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
