"""Which configuration wins, as a pure function of the records.

Nothing here depends on the order in which records arrived, so two stores with the same records
name the same winner, and there is no table of winners that could go stale.

**Tie rule.** Everything within max(1 %, twice the noise floor) of the fastest is a tie. A tie goes
to the default, else to the incumbent, else to the fewest spills, the least shared memory and the
smallest canonical configuration. Without it two tunings of one kernel would mostly disagree.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from seqgen.store.keys import canonical_json
from seqgen.store.records import Config, Measurement, Verification

MINIMAL_TIE = 0.01
SEARCH_NOISE = 0.03
"""Noise assumed for times that were not taken in interleaved passes."""


@dataclass(frozen=True)
class Candidate:
    """A configuration that may win. ``score`` is a time; only ratios of scores matter."""

    config: Config
    score: float
    median_us: float
    role: str = "candidate"
    spills: int = 0
    shared_bytes: int = 0
    gpu: str = ""

    @property
    def order(self) -> tuple[int, int, int, str]:
        """Sorts tied candidates, the preferred one first."""
        rank = {"default": 0, "incumbent": 1}.get(self.role, 2)
        return rank, self.spills, self.shared_bytes, canonical_json(dict(self.config))


@dataclass(frozen=True)
class Winner:
    """The outcome of a race.

    ``tied`` counts the others within ``tolerance`` (a fraction) of the best; ``default_us`` is
    None where the default was not in the race.
    """

    candidate: Candidate
    tied: int
    tolerance: float
    default_us: float | None


def decide(candidates: Sequence[Candidate], noise: float) -> Winner | None:
    """Apply the tie rule.

    Args:
        candidates: verified configurations, each once.
        noise: A/A noise floor as a fraction (0.004 for 0.4 %).
    """
    if not candidates:
        return None
    tolerance = max(MINIMAL_TIE, 2 * noise)
    best = min(c.score for c in candidates)
    tied = [c for c in candidates if c.score <= best * (1 + tolerance)]
    default_us = next((c.median_us for c in candidates if c.role == "default"), None)
    return Winner(min(tied, key=lambda c: c.order), len(tied) - 1, tolerance, default_us)


def derive(
    measurements: Iterable[Measurement], verifications: Iterable[Verification]
) -> Winner | None:
    """The winner among records of the same five keys.

    A configuration takes part if it was verified at this dtype and tile sizes, never failed, and
    was timed. Times from interleaved finals are used if there are any; sessions are pooled as
    ratios to the default of the same session, which cancels clocks and temperature.
    """
    verdicts: dict[str, set[bool]] = defaultdict(set)
    for v in verifications:
        verdicts[canonical_json(dict(v.config))].add(v.outcome == "ok")
    usable = [
        m
        for m in measurements
        if m.status == "ok" and verdicts.get(canonical_json(dict(m.config))) == {True}
    ]
    finals = [m for m in usable if m.rung == "final"]
    timed = finals or usable
    noises = [m.noise for m in timed if m.noise is not None] or [SEARCH_NOISE]
    return decide(_pool(timed), median(noises))


def _pool(timed: Sequence[Measurement]) -> list[Candidate]:
    """One candidate per configuration, its score the median over sessions."""
    defaults: dict[str, list[float]] = defaultdict(list)
    by_config: dict[str, list[Measurement]] = defaultdict(list)
    for m in timed:
        by_config[canonical_json(dict(m.config))].append(m)
        if m.role == "default":
            defaults[m.session].append(_time(m))
    relative = all(m.session in defaults for m in timed)
    candidates = []
    for group in by_config.values():
        scores = [_time(m) / (median(defaults[m.session]) if relative else 1.0) for m in group]
        roles = {m.role for m in group}
        role = next((r for r in ("default", "incumbent") if r in roles), "candidate")
        candidates.append(
            Candidate(
                config=dict(group[0].config),
                score=median(scores),
                median_us=median(_time(m) for m in group),
                role=role,
                spills=max(m.spills or 0 for m in group),
                shared_bytes=max(m.shared_bytes or 0 for m in group),
                gpu=min(m.gpu for m in group),
            )
        )
    return candidates


def _time(measurement: Measurement) -> float:
    assert measurement.median_us is not None, "status 'ok' implies a time"
    return measurement.median_us
