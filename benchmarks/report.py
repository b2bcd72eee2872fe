"""From the numbers of races to what a person reads: a table, one Markdown page.

    python -m benchmarks.report out.json                      # writes out.md and out.png beside it
    python -m benchmarks.report a.json b.json -o docs/benchmarks/h200.md

Several runs become one page; where two measured the same, the later file counts.
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

from benchmarks import plots
from benchmarks.contenders import OURS
from benchmarks.floors import FLOORS
from benchmarks.operators import OPERATORS

Result = Mapping[str, Any]
MODES = {
    "forward": "forward",
    "training": "forward + backward",
    "forward_graph": "forward, CUDA graph",
    "training_graph": "forward + backward, CUDA graph",
}
SHORT = {
    "forward": "fwd",
    "forward_graph": "fwd, graph",
    "training": "fwd+bwd",
    "training_graph": "fwd+bwd, graph",
}
"""Titles of columns, in their order."""

GAPS = {"missing", "failed", "broken", "skipped"}
"""Keys that tell why something was not measured."""


@dataclass(frozen=True)
class Pair:
    """Ours and one peer at one shape on one GPU; either may be absent."""

    gpu: str
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

    def memory(self) -> float | None:
        """The peer's peak memory over ours."""
        mine, other = (side.get("peak_extra_mib") for side in (self.ours, self.theirs))
        return other / mine if mine and other else None


def median(result: Result, mode: str) -> float | None:
    return result[mode]["median"] if mode in result else None


def pairs(data: Mapping[str, Any]) -> Iterator[Pair]:
    """Every peer beside ours, in the order of the run."""
    found: dict[tuple[str, str, str], dict[str, Result]] = {}
    for result in data["results"]:
        if "contender" in result and "shape" in result:
            key = (result.get("gpu", ""), result["operator"], result["shape"])
            found.setdefault(key, {})[result["contender"]] = result
    for key, results in found.items():
        others = [name for name in results if name != OURS] or ["-"]
        for peer in others:
            mine, theirs = results.get(OURS, {}), results.get(peer, {})
            yield Pair(*key, peer, mine, theirs)


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


def merge(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Several runs as one, of one GPU or several; what was measured last counts, and fills gaps.

    Raises:
        ValueError: they are of different versions or dtypes.
    """
    for name in ("torch", "triton", "fla-core", "dtype"):
        values = {str(run["meta"].get(name)) for run in runs}
        if len(values) > 1:
            raise ValueError(f"one page for different {name}: {', '.join(sorted(values))}")
    results: dict[tuple[str, ...], Result] = {}
    cold: dict[tuple[str, ...], Result] = {}
    meta: dict[str, Any] = {"ceilings": {}}
    for run in runs:
        gpu = run["meta"]["gpu"]
        ceilings = {**meta["ceilings"]}
        if run["meta"].get("ceilings"):
            ceilings[gpu] = run["meta"]["ceilings"]
        meta |= {key: value for key, value in run["meta"].items() if value is not None}
        meta["ceilings"] = ceilings
        for result in run["results"]:
            key = tuple(str(result.get(name)) for name in ("operator", "shape", "contender"))
            results[(gpu, *key)] = {**result, "gpu": gpu}
        for answer in run["cold_start"]:
            where = (gpu, answer["operator"], answer["contender"])
            if answer["cold_start_s"] is not None or where not in cold:
                cold[where] = {**answer, "gpu": gpu}
    named = [key for key in results if "None" not in key]
    filled = {(gpu, operator, shape, "None") for gpu, operator, shape, _ in named}
    filled |= {(gpu, operator, "None", contender) for gpu, operator, _, contender in named}
    return {
        "meta": meta,
        "results": [result for key, result in results.items() if key not in filled],
        "compiled": [result for run in runs for result in run["compiled"]],
        "cold_start": list(cold.values()),
    }


def markdown(data: Mapping[str, Any], picture: str) -> str:
    """The whole page of merged runs; ``picture`` is the name of its image file."""
    meta = data["meta"]
    packages = ("torch", "triton", "fla-core", "mamba-ssm")
    software = [f"{name} {meta[name]}" for name in packages if meta.get(name)]
    lines = ["# Races against existing libraries", "", f"{', '.join(software)}, {meta['dtype']}. "]
    lines[-1] += (
        "Medians in ms, ours / peer, eager and as a CUDA graph; a ratio above 1 means that "
    )
    lines[-1] += "seqgen is faster. [How it is measured](../../benchmarks/README.md)."
    ceilings = meta["ceilings"]
    for gpu, found in ceilings.items():
        lines += ["", f"Measured ceilings of {gpu}: copy {found['copy_tb_per_s']:.2f} TB/s, "]
        lines[-1] += f"bf16 product {found['bf16_tflop_per_s']:.0f} TFLOP/s."
    lines += ["", f"![ratios]({picture})"]
    rows = list(pairs(data))
    lines += ["", "## Summary", "", *_summary(rows)]
    for operator in dict.fromkeys(pair.operator for pair in rows):
        mine = [pair for pair in rows if pair.operator == operator]
        lines += ["", f"## {operator}", "", *_races(mine, ceilings), "", ERRORS, ""]
        lines += _errors(operator, data)
        notes = {peer.name: peer.note for peer in OPERATORS[operator].peers if peer.note}
        lines += [""] + [f"* {name}: {note}." for name, note in notes.items()]
    cold = [answer for answer in data["cold_start"] if answer["cold_start_s"] is not None]
    if cold:
        lines += ["", "## Cold start", "", COLD_START, "", *_cold_starts(cold)]
    gaps = [result for result in [*data["results"], *data["cold_start"]] if GAPS & set(result)]
    if gaps:
        lines += ["", "## Not measured", "", *(f"* {progress(result)}" for result in gaps)]
    lines += ["", "An exclamation mark stands for a wrong result (worst error above 0.05).", ""]
    return "\n".join(lines)


ERRORS = "Relative errors against float64 (RMS), at B = 1 and at most 1024 tokens:"
COLD_START = (
    "Seconds from process start to the end of the first forward and backward, no caches. "
    "Lines without an operator are what nobody can avoid: PyTorch with its CUDA context, and "
    "besides it a Triton kernel of two lines."
)


def _table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = ["| " + " | ".join(titles) + " |", "|" + "---|" * len(titles)]
    return lines + ["| " + " | ".join(row) + " |" for row in rows]


def _summary(rows: Sequence[Pair]) -> list[str]:
    """One line per operator and peer: geometric means over the shapes."""
    found: dict[tuple[str, str, str], list[Pair]] = {}
    for pair in rows:
        found.setdefault((pair.operator, pair.peer, pair.gpu), []).append(pair)
    cells = []
    for about, mine in found.items():
        means = [geometric_mean(pair.ratio(mode) for pair in mine) for mode in SHORT]
        memory = geometric_mean(pair.memory() for pair in mine)
        ratios = [written(value, ".2f") for value in [*means, memory]]
        cells.append([*about, str(len(mine)), *ratios])
    titles = ["operator", "peer", "GPU", "shapes", *SHORT.values(), "peer's memory / ours"]
    return _table(titles, cells)


def _races(rows: Sequence[Pair], ceilings: Mapping[str, Mapping[str, float]]) -> list[str]:
    titles = ["GPU", "BxTxHxD", "peer"]
    for title in SHORT.values():
        titles += [title, "ratio"]
    titles += ["error", "peak MiB", "of the floor"]
    return _table(titles, [_row(pair, ceilings.get(pair.gpu)) for pair in rows])


def _row(pair: Pair, ceilings: Mapping[str, float] | None) -> list[str]:
    both = (pair.ours, pair.theirs)
    cells = [pair.gpu, pair.shape, pair.peer]
    for mode in SHORT:
        cells.append(" / ".join(written(median(side, mode), ".3f") for side in both))
        cells.append(written(pair.ratio(mode), ".2f"))
    cells.append(" / ".join(map(error_text, both)))
    cells.append(" / ".join(written(side.get("peak_extra_mib"), ".0f") for side in both))
    mine = median(pair.ours, "training")
    floor = None
    if mine is not None and ceilings:
        floor = mine / (pair.ours["training_bytes"] / ceilings["copy_tb_per_s"] * 1e-9)
    return [*cells, "-" if floor is None else f"{floor:.1f}x"]


def _errors(operator: str, data: Mapping[str, Any]) -> list[str]:
    checked = [r for r in data["results"] if r["operator"] == operator and "errors" in r]
    names = list(dict.fromkeys(name for result in checked for name in result["errors"]))
    rows = []
    for result in checked:
        values = [result["errors"].get(name) for name in names]
        mark = " !" if result["wrong"] else ""
        rows.append([result["gpu"], result["shape"], result["contender"] + mark])
        rows[-1] += [written(value, ".5f") for value in values]
    return _table(["GPU", "BxTxHxD", "contender", *names], rows)


def _cold_starts(answers: Sequence[Result]) -> list[str]:
    """The floors first."""
    ordered = sorted(answers, key=lambda answer: answer["contender"] not in FLOORS)
    rows = [
        [
            answer["operator"] or "-",
            answer["contender"],
            answer["gpu"],
            answer["shape"],
            written(answer["cold_start_s"], ".2f"),
        ]
        for answer in ordered
    ]
    return _table(["operator", "contender", "GPU", "BxTxHxD", "seconds"], rows)


def write(sources: Sequence[Path], page: Path) -> dict[str, Any]:
    """The runs in ``sources`` as one Markdown page with its PNG beside it; returns them merged."""
    data = merge([json.loads(source.read_text(encoding="utf-8")) for source in sources])
    picture = page.with_suffix(".png")
    rows = [pair for pair in pairs(data) if pair.ratio("training") is not None]
    plots.draw_ratios(
        [f"{pair.operator}  {pair.shape}\nvs {pair.peer}" for pair in rows],
        {MODES[mode]: [pair.ratio(mode) for pair in rows] for mode in plots.COLOURS},
        ", ".join([*dict.fromkeys(pair.gpu for pair in rows), data["meta"]["dtype"]]),
        picture,
    )
    page.write_text(markdown(data, picture.name), encoding="utf-8")
    return data


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.report", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument(
        "json", type=Path, nargs="+", metavar="FILE", help="written by benchmarks.peers"
    )
    parser.add_argument("-o", "--output", type=Path, metavar="PAGE", help="FILE.md by default")
    parsed = parser.parse_args(arguments)
    if parsed.output is None and len(parsed.json) > 1:
        parser.error("several files need -o PAGE")
    try:
        data = write(parsed.json, parsed.output or parsed.json[0].with_suffix(".md"))
    except (OSError, ValueError) as problem:
        parser.error(str(problem))
    print(compact_table(data))
    return 0


if __name__ == "__main__":
    sys.exit(main())
