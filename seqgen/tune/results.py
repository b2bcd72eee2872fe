"""What the worker says about a configuration. Plain values, no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

Config = Mapping[str, Any]


@dataclass(frozen=True)
class Timing:
    """Microseconds; ``mad_us`` is the median absolute deviation."""

    repetitions: int
    median_us: float
    p20_us: float
    p80_us: float
    mad_us: float


@dataclass(frozen=True)
class Timed:
    """An attempt to time one configuration; ``timing`` is there if the status is ``"ok"``."""

    status: Literal["ok", "rejected", "crashed", "timeout"]
    timing: Timing | None = None
    reason: str = ""


@dataclass(frozen=True)
class Compiled:
    """What compiling one configuration showed.

    ``rejected`` is the reason why it cannot run, or empty. Registers and spills (in 4-byte words)
    are per thread, shared memory in bytes per block; of several launches the largest.
    """

    rejected: str = ""
    registers: int | None = None
    spills: int | None = None
    shared_bytes: int | None = None


@dataclass(frozen=True)
class Verdict:
    """Whether a configuration gives right results.

    ``worst`` is the result nearest to its limit, or the one that failed; ``error`` its relative
    RMS error. ``reason`` is what was raised, for messages.
    """

    outcome: Literal["ok", "inaccurate", "racy", "nan", "crashed", "timeout"]
    worst: str = ""
    error: float | None = None
    limit: float | None = None
    reason: str = ""

    def __str__(self) -> str:
        place = f" at {self.worst}" if self.worst else ""
        size = f", error {self.error:.2g} over {self.limit:.2g}" if self.error is not None else ""
        return f"{self.outcome}{place}{size}{f' ({self.reason})' if self.reason else ''}"


@dataclass(frozen=True)
class KernelTask:
    """One kernel that can be tuned in a module: what ``CONFIGS`` is asked for, and its default."""

    dtype: Literal["fp32", "fp16", "bf16"]
    sizes: Mapping[str, int]
    load: int
    length: int
    default: Config


class Bench(Protocol):
    """One generated file at one size on one GPU. Nothing here raises on a kernel's account."""

    gpu: str
    driver: str

    def tasks(self) -> dict[str, KernelTask]:
        """The kernels that run in a forward and backward."""

    def use(self, kernel: str, config: Config) -> None:
        """Keep a configuration for the rest of the session."""

    def compile(self, kernel: str, configs: Sequence[Config], *, gate: bool) -> list[Compiled]:
        """Compile in parallel, for the timed size or for the cases of the gate."""

    def time(self, kernel: str, config: Config, limit_us: float | None) -> Timed:
        """Time one configuration; beyond ``limit_us`` not precisely."""

    def gate(self, kernel: str, config: Config) -> Verdict:
        """Judge one configuration."""

    def finals(
        self, kernel: str, configs: Sequence[Config], seconds: float, seed: int
    ) -> tuple[list[Timing], float] | None:
        """Interleaved times and the noise floor; None if the worker was lost."""
