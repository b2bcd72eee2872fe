"""From all records of a kernel to the configuration that a build uses."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

from seqgen.store.keys import DeviceKey, KernelKey, PolicyKey, ProblemKey, ToolchainKey
from seqgen.store.models import BUNDLED, LOCAL
from seqgen.store.records import Config, Measurement, Verification
from seqgen.store.winners import Winner, derive

Accept = Callable[[ProblemKey, Config], bool]
"""Whether a stored configuration lies in the domain that the plan declares for a problem."""


def accept_all(problem: ProblemKey, config: Config) -> bool:
    """For callers that only show records."""
    return True


@dataclass(frozen=True)
class Query:
    """The five keys of a question."""

    kernel: KernelKey
    problem: ProblemKey
    device: DeviceKey
    toolchain: ToolchainKey
    policy: PolicyKey


@dataclass(frozen=True)
class Choice:
    """A configuration out of the store, and why it was taken.

    Args:
        problem: the bucket it was measured in; ``device`` likewise.
        origin: one word for ``CONFIGS`` and tables; ``reason`` is the sentence.
        median_us: its time there; None for a pin.
    """

    config: Config
    origin: Literal["pinned", "tuned", "neighbour", "sibling"]
    reason: str
    problem: ProblemKey
    device: DeviceKey
    median_us: float | None = None
    default_us: float | None = None


@dataclass(frozen=True)
class Pin:
    """A configuration that the user fixed."""

    problem: ProblemKey
    device: DeviceKey
    config: Config


@dataclass(frozen=True)
class History:
    """Everything that is stored about one kernel; records with their trust."""

    measurements: Sequence[tuple[Measurement, int]]
    verifications: Sequence[tuple[Verification, int]]
    pins: Sequence[Pin] = ()

    def problems(
        self, device: DeviceKey, toolchain: ToolchainKey, policy: PolicyKey
    ) -> list[ProblemKey]:
        """The buckets that were measured under these keys, in a fixed order."""
        found = {
            m.problem.hash: m.problem
            for m, _ in self.measurements
            if (m.device, m.toolchain, m.policy) == (device, toolchain, policy)
        }
        return [found[h] for h in sorted(found)]

    def toolchains(self, own: ToolchainKey) -> list[ToolchainKey]:
        """Those that a build asks for, in this order: its own, then others that were measured.

        A configuration that won under another Triton is a better guess than the untuned default.
        """
        others = {m.toolchain for m, _ in self.measurements} - {own}
        return [own, *sorted(others, key=lambda t: (t.triton, t.ptxas), reverse=True)]

    def winner(self, query: Query, accept: Accept) -> tuple[Winner, int] | None:
        """The winner for exactly these keys and the trust of its records.

        Local records decide alone if they can; else bundled ones join in. Imported records never
        decide: the tuner verifies and times them first. A failure that is known at the tier or
        above takes a configuration out.
        """
        for tier in (LOCAL, BUNDLED):
            measured = [
                m
                for m, trust in self.measurements
                if trust >= tier
                and (m.problem, m.device, m.toolchain, m.policy)
                == (query.problem, query.device, query.toolchain, query.policy)
                and accept(query.problem, m.config)
            ]
            verified = [
                v
                for v, trust in self.verifications
                if trust >= tier
                and (v.device, v.toolchain) == (query.device, query.toolchain)
                and v.problem.same_shape(query.problem)
            ]
            winner = derive(measured, verified)
            if winner is not None:
                return winner, tier
        return None


def lookup(history: History, query: Query, accept: Accept) -> Choice | None:
    """Pinned, else exact, else the nearest bucket on this device, else a sibling device."""
    for pin in history.pins:
        same = pin.problem == query.problem and pin.device == query.device
        if same and accept(pin.problem, pin.config):
            return Choice(
                pin.config, "pinned", "Pinned by 'seqgen db pin'.", pin.problem, pin.device
            )
    devices = [query.device, *_siblings(history, query.device)]
    for device in devices:
        for problem in _buckets(history, query, device):
            at = Query(query.kernel, problem, device, query.toolchain, query.policy)
            found = history.winner(at, accept)
            if found is not None:
                return _choice(found, query, at)
    return None


def _buckets(history: History, query: Query, device: DeviceKey) -> Iterator[ProblemKey]:
    """Measured buckets of the query's dtype and tile sizes, the nearest first."""
    known = history.problems(device, query.toolchain, query.policy)
    same = [p for p in known if p.same_shape(query.problem)]
    yield from sorted(same, key=lambda p: (p.distance(query.problem), p.load, p.length))


def _siblings(history: History, device: DeviceKey) -> list[DeviceKey]:
    """Other devices of the same architecture that were measured, the most alike first."""
    found = {m.device.hash: m.device for m, _ in history.measurements if m.device != device}
    alike = [d for d in found.values() if (d.vendor, d.arch) == (device.vendor, device.arch)]

    def unlikeness(other: DeviceKey) -> tuple[float, str]:
        ratios = (
            (other.sm_count, device.sm_count),
            (other.memory_gbps, device.memory_gbps),
        )
        return sum(abs(math.log(max(a, 1) / max(b, 1))) for a, b in ratios), other.hash

    return sorted(alike, key=unlikeness)


def _choice(found: tuple[Winner, int], query: Query, at: Query) -> Choice:
    winner, tier = found
    best = winner.candidate
    where = best.gpu or at.device.arch
    record = " (shipped record)" if tier == BUNDLED else ""
    reason = f"Measured on {where} with Triton {at.toolchain.triton}{record}"
    origin: Literal["tuned", "neighbour", "sibling"] = "tuned"
    if at.problem != query.problem:
        origin = "neighbour"
        reason += (
            f", in bucket load {at.problem.load}, length {at.problem.length} "
            f"(wanted {query.problem.load}, {query.problem.length})"
        )
    if at.device != query.device:
        origin = "sibling"
        reason += ", another GPU of this architecture"
    reason += f": {best.median_us:.1f} us"
    if winner.default_us is not None:
        reason += f", default {winner.default_us:.1f} us"
    return Choice(
        config=best.config,
        origin=origin,
        reason=reason + ".",
        problem=at.problem,
        device=at.device,
        median_us=best.median_us,
        default_us=winner.default_us,
    )


def key_differences(stored: Any, wanted: Any) -> list[str]:
    """``"load: 5 stored, 6 wanted"`` for each field in which two keys of one kind differ."""
    pairs = ((f.name, getattr(stored, f.name), getattr(wanted, f.name)) for f in fields(wanted))
    return [f"{name}: {a} stored, {b} wanted" for name, a, b in pairs if a != b]
