"""Seconds that ``seqgen check`` and ``seqgen build`` take, from a cold start and again.

python -m benchmarks.build_time examples/simple_gla.yaml --gpu h200
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks import processes


def seconds(arguments: Sequence[str], cache: Path) -> float:
    """Wall-clock seconds of one ``seqgen`` command.

    Raises:
        subprocess.CalledProcessError: it failed; its messages have gone to stderr.
    """
    program = "import sys; from seqgen.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", program, *arguments]
    start = time.perf_counter()
    subprocess.run(command, env=processes.environment(cache), stdout=subprocess.DEVNULL, check=True)
    return round(time.perf_counter() - start, 2)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.build_time", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("specs", nargs="+", metavar="SPEC")
    parser.add_argument("--gpu", default="h200")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parsed = parser.parse_args(arguments)
    rows = []
    print(f"{'spec':40s} {'check':>7s} {'build':>7s} {'again':>7s}   seconds")
    for spec in parsed.specs:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            build = ["build", spec, "--gpu", parsed.gpu, "-o", str(folder / "built")]
            try:
                times = [seconds(words, folder) for words in (["check", spec], build, build)]
            except subprocess.CalledProcessError as problem:
                print(f"{spec:40s} failed with exit status {problem.returncode}")
                rows.append({"spec": spec, "failed": problem.returncode})
                continue
        print(f"{spec:40s} {times[0]:7.2f} {times[1]:7.2f} {times[2]:7.2f}")
        rows.append({"spec": spec, "check_s": times[0], "build_s": times[1], "again_s": times[2]})
    if parsed.json is not None:
        parsed.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    return int(any("failed" in row for row in rows))


if __name__ == "__main__":
    sys.exit(main())
