"""Compile many launches at once, each where an abort of the compiler costs only itself."""

from __future__ import annotations

import contextlib
import os
import pickle
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO

from seqgen.gpu.compile import compile_launch, is_cached
from seqgen.gpu.launches import Launch
from seqgen.gpu.resources import KernelResources
from seqgen.gpu.table import Gpu


@dataclass(frozen=True)
class CompileFailure:
    """A launch that gave no binary."""

    kernel: str
    reason: str
    """One sentence or the compiler's last lines."""


def compile_launches(
    launches: Sequence[Launch],
    gpu: Gpu,
    *,
    workers: int | None = None,
    deadline: float = 300.0,
    on_result: Callable[[KernelResources | CompileFailure], object] | None = None,
) -> list[KernelResources | CompileFailure]:
    """Compile ``launches`` for ``gpu`` in worker processes that end afterwards.

    Args:
        launches: what ``capture_launches`` recorded.
        gpu: the GPU to compile for.
        workers: processes; by default one for each CPU, and no more than launches.
        deadline: seconds one launch may take before its worker is killed.
        on_result: called in this thread with each result as it comes, in any order.

    Returns:
        A result for each launch, in their order. Nothing raises on a kernel's account.
    """
    with CompilePool(gpu, workers=workers, deadline=deadline) as pool:
        return pool.compile(launches, on_result)


def _cores() -> int:
    """Those that this process may use, where the system tells."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class CompilePool:
    """Compiler processes that stay for the next batch: each takes seconds to start."""

    def __init__(self, gpu: Gpu, *, workers: int | None = None, deadline: float = 300.0) -> None:
        """Nothing is started yet; the arguments are those of ``compile_launches``."""
        self._gpu = gpu
        self._workers = workers or _cores()
        self._deadline = deadline
        self._crew: list[_Worker] = []

    def __enter__(self) -> CompilePool:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for worker in self._crew:
            worker.close()

    def compile(
        self,
        launches: Sequence[Launch],
        on_result: Callable[[KernelResources | CompileFailure], object] | None = None,
    ) -> list[KernelResources | CompileFailure]:
        """Compile one batch; see ``compile_launches``."""
        results: dict[int, KernelResources | CompileFailure] = {}
        report = on_result or (lambda result: None)
        for index, launch in enumerate(launches):
            # A process takes seconds to start; what needs no compiler needs no shield from it.
            if is_cached(launch, self._gpu):
                results[index] = compile_launch(launch, self._gpu)
                report(results[index])
        missing = [index for index in range(len(launches)) if index not in results]
        if missing:
            self._compile_missing(launches, missing, results, report)
        return [results[index] for index in range(len(launches))]

    def _compile_missing(
        self,
        launches: Sequence[Launch],
        missing: Sequence[int],
        results: dict[int, KernelResources | CompileFailure],
        report: Callable[[KernelResources | CompileFailure], object],
    ) -> None:
        count = min(self._workers, len(missing))
        while len(self._crew) < count:
            self._crew.append(_Worker(self._deadline))
        idle = list(self._crew)

        def compile_one(index: int) -> int:
            worker = idle.pop()
            try:
                results[index] = worker.compile(launches[index], self._gpu)
            finally:
                idle.append(worker)
            return index

        with ThreadPoolExecutor(count) as threads:
            jobs = [threads.submit(compile_one, index) for index in missing]
            try:
                for job in as_completed(jobs):
                    report(results[job.result()])
            except BaseException:
                # Ctrl-C: nobody waits for the kernels that are left.
                threads.shutdown(wait=False, cancel_futures=True)
                for worker in self._crew:
                    worker.kill()
                raise


class _Worker:
    """One compiler process, started at need and again after it died."""

    def __init__(self, deadline: float) -> None:
        self._deadline = deadline
        self._process: subprocess.Popen[bytes] | None = None
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 (lives as long as self)

    def compile(self, launch: Launch, gpu: Gpu) -> KernelResources | CompileFailure:
        try:
            job = pickle.dumps((launch, gpu))
        except (pickle.PicklingError, TypeError, AttributeError) as error:
            return CompileFailure(launch.name, f"its arguments cannot be sent: {error}")
        process = self._process or self._start()
        assert process.stdin is not None and process.stdout is not None
        printed = self._errors.seek(0, os.SEEK_END)
        late = threading.Event()

        def kill() -> None:
            late.set()
            process.kill()

        timer = threading.Timer(self._deadline, kill)
        timer.start()
        try:
            process.stdin.write(job)
            process.stdin.flush()
            answer: KernelResources | str = pickle.load(process.stdout)
        except (EOFError, OSError, pickle.UnpicklingError):
            status = process.wait()
            self._forget()
            if late.is_set():
                reason = f"the compiler took more than {self._deadline:g} s"
            else:
                reason = f"the compiler died with status {status}. {self._last_error(printed)}"
            return CompileFailure(launch.name, reason.strip())
        finally:
            timer.cancel()
        if isinstance(answer, str):
            return CompileFailure(launch.name, f"{answer} {self._last_error(printed)}".strip())
        return answer

    def kill(self) -> None:
        """End the process; a thread that waits for its answer sees the pipe end."""
        if self._process is not None:
            self._process.kill()

    def close(self) -> None:
        self.kill()
        self._forget()
        self._errors.close()

    def _forget(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(OSError):
                process.communicate()

    def _start(self) -> subprocess.Popen[bytes]:
        environment = dict(os.environ)
        # The interpreter compiles nothing; a source checkout has to be found again.
        environment.pop("TRITON_INTERPRET", None)
        root = str(Path(__file__).resolve().parents[2])
        environment["PYTHONPATH"] = os.pathsep.join(
            [root, *filter(None, [environment.get("PYTHONPATH")])]
        )
        self._process = subprocess.Popen(
            [sys.executable, "-m", "seqgen.gpu.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=environment,
        )
        return self._process

    def _last_error(self, start: int) -> str:
        """The compiler's own words since ``start``: its first line that names an error."""
        self._errors.seek(start)
        lines = self._errors.read().decode(errors="replace").splitlines()
        named = [line.strip() for line in lines if "error:" in line or "Assertion" in line]
        return named[0][:300] if named else ""
