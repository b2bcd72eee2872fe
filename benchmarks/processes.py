"""Starting measuring processes, following what they report, ending them in time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
Job = dict[str, Any]
Result = dict[str, Any]


def cores() -> int:
    """Those that this process may use: races on several GPUs share a machine by affinity."""
    return len(os.sched_getaffinity(0))


def environment(cache: Path) -> dict[str, str]:
    """For a measuring process: its own kernel cache, and no autotuning results on disk."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {
        **os.environ,
        "PYTHONPATH": path,
        "TRITON_CACHE_DIR": str(cache / "triton"),
        "SEQGEN_CACHE": str(cache / "seqgen"),
        "FLA_CACHE_RESULTS": "0",
        "PYTHONUNBUFFERED": "1",
    }


@dataclass
class Worker:
    """One running ``benchmarks.race`` process and how far its results were read."""

    job: Job
    process: subprocess.Popen[bytes]
    out: Path
    log: Path
    seen: int = 0

    def new_results(self) -> list[Result]:
        """What it has reported since the last call."""
        lines = self.out.read_text(encoding="utf-8").split("\n")[:-1] if self.out.exists() else []
        fresh, self.seen = lines[self.seen :], len(lines)
        return [json.loads(line) for line in fresh]

    def last_words(self) -> str:
        """The last line it printed; for a crash, the exception."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return lines[-1][:200] if lines else ""


@contextmanager
def running(job: Job, folder: Path, number: int) -> Iterator[Worker]:
    """A worker for ``job``; it is killed on the way out if it still runs."""
    path, log = folder / f"job{number}.json", folder / f"job{number}.log"
    out = folder / f"job{number}.jsonl"
    path.write_text(json.dumps(job), encoding="utf-8")
    command = [sys.executable, "-m", "benchmarks.race", str(path), str(out)]
    with log.open("wb") as sink:
        process = subprocess.Popen(
            command, stdout=sink, stderr=sink, env=environment(folder), cwd=ROOT
        )
        try:
            yield Worker(job, process, out, log)
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()


def run_job(
    job: Job, folder: Path, number: int, until: float, receive: Callable[[Result], None]
) -> None:
    """Runs one job and hands on its results as they come; a failure becomes a result too.

    Args:
        job: for ``benchmarks.race``.
        folder: for its files and caches.
        number: makes the names of its files unique.
        until: Unix time at which it is killed.
        receive: called with every result.
    """
    with running(job, folder, number) as worker:
        while worker.process.poll() is None and time.time() < until:
            time.sleep(0.5)
            for result in worker.new_results():
                receive(result)
        overdue = worker.process.poll() is None
        if overdue:
            worker.process.kill()
            worker.process.wait()
        for result in worker.new_results():
            receive(result)
        if overdue or worker.process.returncode != 0:
            why = "out of time" if overdue else worker.last_words()
            keys = ("kind", "operator", "contender", "shapes")
            about: Mapping[str, Any] = {key: job[key] for key in keys if key in job}
            receive({**about, "broken": why})


def run_side_by_side(
    jobs: Sequence[Job], folder: Path, most: int, until: float, receive: Callable[[Result], None]
) -> None:
    """Runs jobs, ``most`` at a time; for work that nobody times."""
    lock = threading.Lock()

    def one_at_a_time(result: Result) -> None:
        with lock:
            receive(result)

    with ThreadPoolExecutor(most) as pool:
        tasks = [
            pool.submit(run_job, job, folder, number, until, one_at_a_time)
            for number, job in enumerate(jobs)
        ]
        for task in tasks:
            task.result()
