"""The two kinds of facts in the store. Both are append-only and named by their content."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, ClassVar, Literal

from seqgen.store.keys import (
    DeviceKey,
    KernelKey,
    PolicyKey,
    ProblemKey,
    ToolchainKey,
    content_hash,
)

KnobValue = int | bool | str
Config = Mapping[str, KnobValue]


@dataclass(frozen=True)
class _Record:
    kind: ClassVar[str]

    @cached_property
    def payload(self) -> dict[str, Any]:
        """Everything in the record as JSON values, keys in clear."""
        values = {}
        for f in fields(self):
            value = getattr(self, f.name)
            if hasattr(value, "clear") and not isinstance(value, dict):
                value = value.clear()
            values[f.name] = dict(value) if isinstance(value, Mapping) else value
        return {"type": self.kind, **values}

    @cached_property
    def record_id(self) -> str:
        """Hash of the payload: the same fact has the same name everywhere."""
        return content_hash(self.payload)


@dataclass(frozen=True)
class Measurement(_Record):
    """The time of one configuration in one tuning session; all times in microseconds.

    Args:
        shape: the exact sizes that were run, such as ``{"B": 2, "T": 16384, "H": 16}``.
        status: ``"rejected"`` did not compile or cannot be launched.
        rung: ``"final"`` times come from interleaved passes and may be compared within a session.
        role: what the configuration was at that time; default and incumbent win ties.
        mad_us: median absolute deviation.
        noise: A/A noise floor of the finals, as a fraction.
        created: UTC, ISO 8601 to the second.
    """

    kind: ClassVar[str] = "measurement"

    kernel: KernelKey
    problem: ProblemKey
    device: DeviceKey
    toolchain: ToolchainKey
    policy: PolicyKey
    config: Config
    shape: Mapping[str, int]
    status: Literal["ok", "rejected", "crashed", "timeout"]
    rung: Literal["search", "final"]
    role: Literal["candidate", "default", "incumbent"]
    session: str
    created: str
    repetitions: int = 0
    median_us: float | None = None
    p20_us: float | None = None
    p80_us: float | None = None
    mad_us: float | None = None
    noise: float | None = None
    registers: int | None = None
    spills: int | None = None
    shared_bytes: int | None = None
    gpu: str = ""
    driver: str = ""

    def __post_init__(self) -> None:
        # A time of nothing would win every race, and "ok" without a time could not be ranked.
        if self.status == "ok" and not (self.median_us is not None and self.median_us > 0):
            raise ValueError("a measurement with status 'ok' needs a median_us above 0")


@dataclass(frozen=True)
class Verification(_Record):
    """Whether one configuration gave right results, measured against the float64 reference.

    Args:
        outcome: ``"racy"`` differs between runs; ``"nan"`` reads memory it did not write.
        worst: name of the result that came nearest to its limit or went over it.
        error: its relative RMS error; ``limit`` what was allowed.
    """

    kind: ClassVar[str] = "verification"

    kernel: KernelKey
    problem: ProblemKey
    device: DeviceKey
    toolchain: ToolchainKey
    config: Config
    outcome: Literal["ok", "inaccurate", "racy", "nan", "crashed", "timeout"]
    session: str
    created: str
    worst: str = ""
    error: float | None = None
    limit: float | None = None


Record = Measurement | Verification
