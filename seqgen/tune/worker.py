"""The process that runs generated kernels: ``python -m seqgen.tune.worker``.

The first job opens a generated file with a workload; the others time, judge and race
configurations of its kernels.
"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from seqgen.runtime.loader import import_file
from seqgen.tune.benchmark import Clock, cuda_clock, finals, measure
from seqgen.tune.compilation import Compiler, gpu_compiler
from seqgen.tune.gate import Case, full_size_case, make_cases, verify
from seqgen.tune.harness import Harness, OperatorRun, Recording, repeat
from seqgen.tune.inputs import Inputs, make_inputs
from seqgen.tune.process import Message, serve
from seqgen.tune.results import Config, KernelTask
from seqgen.tune.workload import Workload


class Bench:
    """Answers the tuner's jobs about one generated file and workload."""

    def __init__(
        self,
        module: Any,
        workload: Workload,
        *,
        clock: Clock,
        compiler: Compiler,
        device: str,
        settled: Mapping[str, Config],
    ) -> None:
        """Run the operator once at full size and work out the truth at small ones.

        Args:
            module: the generated file, imported.
            workload: sizes to time at.
            clock: measures calls.
            compiler: compiles what a call would launch, in parallel.
            device: ``"cuda"``, or ``"cpu"`` for tests.
            settled: configurations that were decided before, by kernel.
        """
        self._harness = Harness(module, workload)
        self._clock = clock
        self._compiler = compiler
        self._defaults = {kernel: self._harness.default(kernel) for kernel in module.CONFIGS}
        self._inputs = make_inputs(workload, 0, device)
        self._compile_runs([self._inputs])
        full = full_size_case(self._harness, self._inputs)
        for kernel, config in settled.items():
            self._harness.use(kernel, config)
        self._recording = self._harness.record(self._inputs)
        keys = self._recording.keys
        tiled = frozenset(axis for _, sizes, _, _ in keys.values() for axis, _ in sizes)
        small = make_cases(self._harness, tiled, seed=10, device=device)
        self._compile_runs([case.inputs for case in small])
        self._cases: list[Case] = [*small, full]
        self._small = self._record_small()

    def _compile_runs(self, inputs: Sequence[Inputs]) -> None:
        """Compile in parallel what the operator launches; the JIT would do one after another."""
        harness = self._harness
        runs = [OperatorRun(harness.operator, harness.workload, each) for each in inputs]
        self._compiler(lambda _: [run() for run in runs], [{}])

    def _record_small(self) -> list[Recording]:
        return [self._harness.record(case.inputs) for case in self._cases[:-1]]

    def describe(self) -> Message:
        """The kernels that can be tuned here, each with its problem key and default."""
        kernels = {}
        for kernel in self._recording.calls:
            if kernel not in self._recording.keys:
                continue  # it has no choice to make at this size
            dtype, sizes, load, length = self._recording.keys[kernel]
            task = KernelTask(
                dtype=dtype,
                sizes=dict(sizes),
                load=load,
                length=length,
                default=self._defaults[kernel],
            )
            kernels[kernel] = asdict(task)
        return {"kernels": kernels}

    def use(self, kernel: str, config: Config) -> Message:
        """Keep a configuration for the rest; what other kernels are called with may change."""
        self._harness.use(kernel, config)
        self._recording = self._harness.record(self._inputs)
        self._small = self._record_small()
        return self.describe()

    def compile(self, kernel: str, configs: Sequence[Config], gate: bool) -> Message:
        """Compile candidates, for the timed size or for the small cases of the gate."""
        recordings = self._small if gate else [self._recording]
        calls = [repeat(r.calls[kernel]) for r in recordings if kernel in r.calls]

        def launching(config: Config) -> None:
            with self._harness.using(kernel, config):
                for call in calls:
                    call()

        return {"compiled": [asdict(c) for c in self._compiler(launching, configs)]}

    def time(self, kernel: str, config: Config, limit_us: float | None) -> Message:
        """The time of all launches of a kernel in one forward and backward."""
        with self._harness.using(kernel, config):
            call = repeat(self._recording.calls[kernel])
            return {"timing": asdict(measure(call, self._clock, limit_us))}

    def gate(self, kernel: str, config: Config) -> Message:
        """Whether the operator is right and repeatable with this configuration."""
        with self._harness.using(kernel, config):
            verdict = verify(self._harness, self._cases)
            return {"verdict": asdict(verdict)}

    def finals(self, kernel: str, configs: Sequence[Config], seconds: float, seed: int) -> Message:
        """Race configurations in shuffled rounds, the first one twice."""

        def entrant(config: Config) -> Any:
            launch = repeat(self._recording.calls[kernel])

            def call() -> object:
                self._harness.use(kernel, config)
                return launch()

            return call

        before = self._harness.module.CONFIGS[kernel]
        try:
            calls = [entrant(config) for config in configs]
            timings, noise = finals(calls, self._clock, seconds=seconds, seed=seed)
        finally:
            self._harness.module.CONFIGS[kernel] = before
            self._harness.module._config.cache_clear()
        return {"timings": [asdict(t) for t in timings], "noise": noise}


class Handler:
    """Dispatches jobs: ``{"job": "open", ...}`` first, then methods of ``Bench`` by name."""

    JOBS = ("describe", "use", "compile", "time", "gate", "finals")

    def __init__(self) -> None:
        self._bench: Bench | None = None

    def __call__(self, message: Message) -> Message:
        """The answer to one job."""
        arguments = {k: v for k, v in message.items() if k != "job"}
        job = message["job"]
        if job == "open":
            return self._open(**arguments)
        if job not in self.JOBS or self._bench is None:
            raise ValueError(f"no such job: {job}")
        answer: Message = getattr(self._bench, job)(**arguments)
        return answer

    def _open(self, module: str, workload: Message, settled: Mapping[str, Config]) -> Message:
        self._bench = Bench(
            import_file(Path(module)),
            Workload.from_json(workload),
            clock=cuda_clock(),
            compiler=gpu_compiler(),
            device="cuda",
            settled=settled,
        )
        name = torch.cuda.get_device_properties(torch.cuda.current_device()).name
        return {"gpu": name, "driver": _driver_version()}


def _driver_version() -> str:
    """The NVIDIA driver's, or nothing: it is only noted beside the results."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.split("\n")[0].strip()[:40]


def cuda_is_broken() -> bool:
    """Whether an earlier error makes every further CUDA call of this process fail."""
    try:
        torch.cuda.synchronize()
    except RuntimeError:
        return True
    return False


if __name__ == "__main__":
    serve(Handler(), cuda_is_broken)
