"""``Bench`` by a worker process: a crash or a hang costs the configuration that caused it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from types import TracebackType

from seqgen.errors import SeqgenError
from seqgen.tune.process import JobLost, Message, Worker
from seqgen.tune.results import Compiled, Config, KernelTask, Timed, Timing, Verdict
from seqgen.tune.workload import Workload

TIME_DEADLINE = 60.0
GATE_DEADLINE = 180.0
COMPILE_DEADLINE = 900.0
FINALS_DEADLINE = 120.0
COMMAND = (sys.executable, "-m", "seqgen.tune.worker")


class RemoteBench:
    """Opens the worker at once, and again after each loss, with what was settled by then."""

    def __init__(self, module: Path, workload: Workload, command: Sequence[str] = COMMAND) -> None:
        """Start.

        Args:
            module: the generated file.
            workload: what to run it on.
            command: the worker.

        Raises:
            SeqgenError: the worker cannot start, say because the default configuration crashes.
        """
        self._settled: dict[str, dict[str, object]] = {}
        opening = {
            "job": "open",
            "module": str(module.resolve()),
            "workload": asdict(workload),
            "settled": self._settled,
        }
        self._worker = Worker(command, opening)
        try:
            described = self._worker.ask({"job": "describe"}, TIME_DEADLINE)
        except BaseException:
            self._worker.close()
            raise
        if "error" in described:
            self._worker.close()
            raise SeqgenError(f"The tuning worker cannot start: {described['error']}")
        self._tasks = {name: KernelTask(**task) for name, task in described["kernels"].items()}
        self.gpu: str = self._worker.opened.get("gpu", "")
        self.driver: str = self._worker.opened.get("driver", "")

    def __enter__(self) -> RemoteBench:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._worker.close()

    def tasks(self) -> dict[str, KernelTask]:
        """The kernels that run in a forward and backward."""
        return dict(self._tasks)

    def use(self, kernel: str, config: Config) -> None:
        """Keep a configuration for the rest of the session."""
        self._settled[kernel] = dict(config)
        try:
            answer = self._worker.ask(
                {"job": "use", "kernel": kernel, "config": dict(config)}, GATE_DEADLINE
            )
        except JobLost:
            return  # the next worker opens with it
        if "kernels" in answer:
            self._tasks = {name: KernelTask(**task) for name, task in answer["kernels"].items()}

    def compile(self, kernel: str, configs: Sequence[Config], *, gate: bool) -> list[Compiled]:
        """Compile in parallel; what is not known stays open, running it will tell."""
        job = {"job": "compile", "kernel": kernel, "configs": [*map(dict, configs)], "gate": gate}
        try:
            answer = self._worker.ask(job, COMPILE_DEADLINE)
        except JobLost:
            return [Compiled() for _ in configs]
        if "error" in answer:
            return [Compiled() for _ in configs]
        return [Compiled(**compiled) for compiled in answer["compiled"]]

    def time(self, kernel: str, config: Config, limit_us: float | None) -> Timed:
        """Time one configuration; beyond ``limit_us`` not precisely."""
        job = {"job": "time", "kernel": kernel, "config": dict(config), "limit_us": limit_us}
        try:
            answer = self._worker.ask(job, TIME_DEADLINE)
        except JobLost as lost:
            return Timed("timeout" if lost.late else "crashed", reason=str(lost))
        if "error" in answer:
            return Timed("crashed" if answer["fatal"] else "rejected", reason=answer["error"])
        return Timed("ok", Timing(**answer["timing"]))

    def gate(self, kernel: str, config: Config) -> Verdict:
        """Judge one configuration; one that raises or kills the worker is wrong."""
        job = {"job": "gate", "kernel": kernel, "config": dict(config)}
        try:
            answer = self._worker.ask(job, GATE_DEADLINE)
        except JobLost as lost:
            return Verdict("timeout" if lost.late else "crashed", reason=str(lost))
        if "error" in answer:
            return Verdict("crashed", reason=answer["error"])
        return Verdict(**answer["verdict"])

    def finals(
        self, kernel: str, configs: Sequence[Config], seconds: float, seed: int
    ) -> tuple[list[Timing], float] | None:
        """Interleaved times and the noise floor; None if the worker was lost."""
        job: Message = {"job": "finals", "kernel": kernel, "seconds": seconds, "seed": seed}
        job["configs"] = [dict(config) for config in configs]
        deadline = FINALS_DEADLINE + 3 * seconds * len(configs)
        try:
            answer = self._worker.ask(job, deadline)
        except JobLost:
            return None
        if "error" in answer:
            return None
        return [Timing(**timing) for timing in answer["timings"]], answer["noise"]
