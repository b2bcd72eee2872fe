"""What is known about a kernel's configurations in this run, kept in the store as it comes in."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime, timezone
from typing import Any, Literal

from seqgen.plan.knobs import Config, KernelSpace
from seqgen.store.lookup import Query
from seqgen.store.models import LOCAL
from seqgen.store.records import Measurement, Verification
from seqgen.store.store import TuningStore
from seqgen.tune.results import Compiled, Timing, Verdict
from seqgen.tune.search import key_of

Status = Literal["ok", "rejected", "crashed", "timeout"]


class Journal:
    """Configurations by ``key_of``, with their times and verdicts.

    Attributes:
        configs: everything that was tried.
        times: median microseconds from the search; None for what cannot run.
        outcomes: of the gate, for what went through it.
        incumbent: the configuration that won before, if any.
    """

    def __init__(
        self,
        space: KernelSpace,
        query: Query,
        shape: Mapping[str, int],
        store: TuningStore,
        *,
        session: str,
        gpu: str,
        driver: str,
    ) -> None:
        self.default = key_of(space.default)
        self.configs: dict[str, Config] = {}
        self.times: dict[str, float | None] = {}
        self.outcomes: dict[str, str] = {}
        self.incumbent: str | None = None
        self._compiled: dict[str, Compiled] = {}
        self._space = space
        self._store = store
        self._query = query
        self._keys = {
            "kernel": query.kernel,
            "problem": query.problem,
            "device": query.device,
            "toolchain": query.toolchain,
            "session": session,
        }
        self._origin = {"policy": query.policy, "shape": dict(shape), "gpu": gpu, "driver": driver}

    @property
    def right(self) -> list[str]:
        """Verified configurations, the fastest first."""
        right = [key for key, outcome in self.outcomes.items() if outcome == "ok"]
        return sorted(right, key=lambda key: (self.times[key] or 0.0, key))

    @property
    def best(self) -> float | None:
        """The fastest verified time so far, in microseconds."""
        right = self.right
        return self.times[right[0]] if right else None

    @property
    def unjudged(self) -> list[str]:
        """Timed configurations that the gate has not seen, the fastest first."""
        left = [k for k, us in self.times.items() if us is not None and k not in self.outcomes]
        return sorted(left, key=lambda key: (self.times[key] or 0.0, key))

    @property
    def rejected(self) -> int:
        """How many cannot run."""
        return sum(us is None for us in self.times.values())

    @property
    def wrong(self) -> int:
        """How many failed the gate."""
        return sum(outcome != "ok" for outcome in self.outcomes.values())

    def lesson(self, key: str) -> float | None:
        """What the search is told: the time, or None for what cannot win."""
        return self.times[key] if self.outcomes.get(key, "ok") == "ok" else None

    def note_time(
        self, config: Config, compiled: Compiled, status: Status, timing: Timing | None
    ) -> None:
        """A time of the search, or why there is none."""
        key = key_of(config)
        self.configs[key] = config
        self._compiled[key] = compiled
        self.times[key] = None if timing is None else timing.median_us
        self._record_time(key, status, timing, rung="search")

    def note_final(self, key: str, timing: Timing, noise: float) -> None:
        """A time of the finals, with the noise floor of that race."""
        self._record_time(key, "ok", timing, rung="final", noise=noise)

    def note_verdict(self, key: str, verdict: Verdict) -> None:
        """What the gate said."""
        self.outcomes[key] = verdict.outcome
        config = dict(self.configs[key])
        finite = verdict.error is not None and math.isfinite(verdict.error)
        values: dict[str, Any] = {
            **self._keys,
            "config": config,
            "created": utc_now(),
            "outcome": verdict.outcome,
            "worst": verdict.worst,
            "error": verdict.error if finite else None,
            "limit": verdict.limit,
        }
        self._store.record(Verification(**values))

    def recall(self) -> None:
        """Take over what was found here before under the same keys, by an earlier run."""
        history = self._store.history(self._query.kernel)
        q = self._query
        keys = (q.problem, q.device, q.toolchain, q.policy)
        for m, trust in history.measurements:
            here = trust == LOCAL and m.rung == "search"
            same = (m.problem, m.device, m.toolchain, m.policy) == keys
            if here and same and self._space.contains(m.config):
                key = key_of(m.config)
                self.configs[key] = m.config
                self.times[key] = m.median_us if m.status == "ok" else None
                self._compiled[key] = Compiled("", m.registers, m.spills, m.shared_bytes)
        for v, trust in history.verifications:
            key = key_of(v.config)
            same = (v.device, v.toolchain) == (q.device, q.toolchain)
            known = trust == LOCAL and same and v.problem.same_shape(q.problem)
            # One failure outweighs any number of passes: a race shows only now and then.
            if known and key in self.times and self.outcomes.get(key, "ok") == "ok":
                self.outcomes[key] = v.outcome

    def _record_time(
        self,
        key: str,
        status: Status,
        timing: Timing | None,
        *,
        rung: Literal["search", "final"],
        noise: float | None = None,
    ) -> None:
        role = "incumbent" if key == self.incumbent else "candidate"
        compiled = self._compiled[key]
        values: dict[str, Any] = {
            **self._keys,
            **self._origin,
            "config": dict(self.configs[key]),
            "created": utc_now(),
            "role": "default" if key == self.default else role,
            "registers": compiled.registers,
            "spills": compiled.spills,
            "shared_bytes": compiled.shared_bytes,
            **({} if timing is None else asdict(timing)),
        }
        self._store.record(Measurement(status=status, rung=rung, noise=noise, **values))


def utc_now() -> str:
    """Now, in UTC, to the second."""
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
