"""Tuning of one kernel: seeds, search, polish, finals. Every fact goes to the store at once."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from seqgen.plan.knobs import Config, KernelSpace
from seqgen.store.keys import ProblemKey
from seqgen.store.lookup import Query
from seqgen.store.store import TuningStore
from seqgen.store.winners import Winner
from seqgen.tune.journal import Journal
from seqgen.tune.progress import Progress, clock_text, microseconds
from seqgen.tune.results import Bench, Compiled, Timed
from seqgen.tune.search import Search, key_of
from seqgen.tune.seeds import find_seeds

PROMISING = 1.1
"""Only configurations within this factor of the best are worth the gate."""
HOPELESS = 2.0
"""Beyond this factor of the best a time need not be precise."""
GAIN = 0.01
FINALISTS = 8
FINALS_SHARE = 0.15
"""Of the budget, or less where finals need less."""


@dataclass(frozen=True)
class Options:
    """How to tune.

    Args:
        budget: seconds for everything, builds and finals included.
        resume: take what the store has from earlier runs under the same keys as tried.
        seed: of the search.
        evaluations: configurations to search before polishing; ``patience`` without a gain of
            1 % ends the search earlier.
        batch: configurations that are compiled at once.
        final_seconds: device time for each finalist.
    """

    budget: float
    resume: bool = False
    seed: int = 0
    evaluations: int = 80
    patience: int = 30
    batch: int = 16
    final_seconds: float = 0.3


@dataclass(frozen=True)
class KernelResult:
    """What tuning one kernel came to.

    ``winner`` is None if nothing was right; ``trouble`` says what is wrong with the default.
    """

    query: Query
    winner: Winner | None
    tried: int
    rejected: int
    wrong: int
    seconds: float
    ended: Literal["complete", "budget"]
    trouble: str = ""


class KernelTuner:
    """One kernel at one size on one GPU."""

    def __init__(
        self,
        space: KernelSpace,
        query: Query,
        shape: Mapping[str, int],
        bench: Bench,
        store: TuningStore,
        options: Options,
        *,
        session: str,
        seconds: float,
        progress: Progress,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """Nothing runs yet.

        Args:
            space: the domain.
            query: the keys that facts are filed under.
            shape: the exact sizes, for the records.
            bench: runs kernels.
            store: keeps the facts.
            options: how to tune; its budget does not count here.
            session: name of this run; only times of one session are compared directly.
            seconds: the budget of this kernel.
            progress: is told how far it is.
            now: a clock in seconds.
        """
        self._space = space
        self._query = query
        self._bench = bench
        self._store = store
        self._options = options
        self._progress = progress
        self._now = now
        self._start = now()
        self._end = self._start + seconds
        finals = 2 * options.final_seconds * (FINALISTS + 1)
        self._search_end = self._end - min(FINALS_SHARE * seconds, finals)
        self._search = Search(space, options.seed)
        self._journal = Journal(
            space, query, shape, store, session=session, gpu=bench.gpu, driver=bench.driver
        )
        self._trouble = ""
        self._evaluated = 0
        self._since_gain = 0

    def run(self) -> KernelResult:
        """Tune until done or out of time, and say who won."""
        seeds = self._seeds()
        if self._options.resume:
            self._journal.recall()
            self._judge()
            self._learn(self._journal.times)
        self._attempt(seeds)
        self._explore()
        self._polish()
        ended: Literal["complete", "budget"] = "budget" if self._late() else "complete"
        self._finals(seeds)
        found = self._store.history(self._query.kernel).winner(self._query, self._accept)
        return KernelResult(
            query=self._query,
            winner=None if found is None else found[0],
            tried=len(self._journal.times),
            rejected=self._journal.rejected,
            wrong=self._journal.wrong,
            seconds=self._now() - self._start,
            ended=ended,
            trouble=self._trouble,
        )

    def _accept(self, problem: ProblemKey, config: Config) -> bool:
        return self._space.contains(config)

    def _seeds(self) -> list[Config]:
        """The default, the last winner, and what won under similar keys."""
        q = self._query
        known = self._store.lookup(
            q.kernel, q.problem, q.device, q.toolchain, q.policy, accept=self._accept
        )
        seeds: list[Config] = [self._space.default]
        if known is not None and known.origin == "tuned":
            self._journal.incumbent = key_of(known.config)
            seeds.append(known.config)
        return seeds + find_seeds(self._store.records(), q, self._space)

    def _explore(self) -> None:
        options = self._options
        while not self._late() and self._since_gain < options.patience:
            left = min(options.batch, options.evaluations - self._evaluated)
            batch = self._search.suggest(left) if left > 0 else []
            # Where nothing is ever right, the kernel is broken and not its configurations.
            hopeless = self._journal.best is None and self._journal.wrong >= options.batch
            if not batch or hopeless:
                return
            self._attempt(batch)

    def _polish(self) -> None:
        """Try all neighbours of the best two until that gains nothing."""
        while not self._late():
            before = self._journal.best
            centres = [self._journal.configs[key] for key in self._journal.right[:2]]
            fresh = [c for centre in centres for c in self._search.neighbours(centre)]
            if before is None or not fresh:
                return
            self._attempt(fresh)
            after = self._journal.best
            if after is None or after >= before:
                return

    def _attempt(self, configs: Iterable[Config]) -> None:
        """Compile, time and, where promising, judge configurations that were not tried yet."""
        journal = self._journal
        new = {key_of(c): c for c in configs if key_of(c) not in journal.times}
        if not new:
            return
        before = journal.best
        compiled = self._bench.compile(self._space.kernel, list(new.values()), gate=False)
        for config, report in zip(new.values(), compiled, strict=True):
            # The default is timed in any case: without it there is nothing to return.
            if self._late() and journal.times:
                break
            self._time(config, report)
            self._show()
        self._judge()
        tried = [key for key in new if key in journal.times]
        self._learn(tried)
        after = journal.best
        gained = after is not None and (before is None or after < (1 - GAIN) * before)
        self._since_gain = 0 if gained else self._since_gain + len(tried)

    def _learn(self, keys: Iterable[str]) -> None:
        for key in keys:
            self._search.tell(self._journal.configs[key], self._journal.lesson(key))
            self._evaluated += 1

    def _time(self, config: Config, report: Compiled) -> None:
        best = self._journal.best
        if report.rejected:
            timed = Timed("rejected", reason=report.rejected)
        else:
            limit = None if best is None else HOPELESS * best
            timed = self._bench.time(self._space.kernel, config, limit)
        self._journal.note_time(config, report, timed.status, timed.timing)
        if timed.timing is None and config == self._space.default:
            self._trouble = f"{timed.status}: {timed.reason}"

    def _judge(self) -> None:
        """Put what is promising through the gate, the fastest first."""
        journal = self._journal
        promising = [key for key in journal.unjudged if self._is_promising(key)]
        # While nothing is verified all are promising; do not compile them all for the gate.
        promising = promising[: self._options.batch]
        if promising:
            configs = [journal.configs[key] for key in promising]
            self._bench.compile(self._space.kernel, configs, gate=True)
        for key in promising:
            # Out of time, the default alone is judged: without it there is nothing to return.
            if not self._is_promising(key) or (self._late() and key != journal.default):
                continue
            verdict = self._bench.gate(self._space.kernel, journal.configs[key])
            journal.note_verdict(key, verdict)
            if verdict.outcome != "ok" and key == journal.default:
                self._trouble = str(verdict)
            self._show()

    def _is_promising(self, key: str) -> bool:
        best, us = self._journal.best, self._journal.times[key]
        if us is None:
            return False
        return best is None or us <= PROMISING * best or key == self._journal.default

    def _finals(self, seeds: Iterable[Config]) -> None:
        """Race the best against the default and the seeds, in turn."""
        journal = self._journal
        known = {key_of(c) for c in seeds}
        right = journal.right
        chosen = [key for i, key in enumerate(right) if i < FINALISTS or key in known]
        chosen.sort(key=lambda key: key != journal.default)
        if not chosen:
            return
        configs = [journal.configs[key] for key in chosen]
        options = self._options
        raced = self._bench.finals(self._space.kernel, configs, options.final_seconds, options.seed)
        if raced is not None:
            timings, noise = raced
            for key, timing in zip(chosen, timings, strict=True):
                journal.note_final(key, timing, noise)

    def _late(self) -> bool:
        return self._now() > self._search_end

    def _show(self) -> None:
        journal = self._journal
        default = journal.times.get(journal.default)
        self._progress.update(
            f"{self._query.kernel.op} {self._space.kernel}: {len(journal.times)} tried, "
            f"{journal.rejected} rejected, {journal.wrong} wrong; "
            f"best {microseconds(journal.best)}, default {microseconds(default)}; "
            f"at most {clock_text(self._end - self._now())} left"
        )
