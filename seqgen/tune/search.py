"""Which configurations to try next: TPE on ordinal knobs, then every neighbour of the best.

Optuna's study lives in memory and is scratch. What was learnt is in the tuning store, from which a
search can be filled again.
"""

from __future__ import annotations

import math
import random
import warnings
from collections.abc import Sequence
from itertools import islice
from typing import Any

import optuna
from optuna.distributions import IntDistribution
from optuna.trial import Trial, create_trial

from seqgen.plan.knobs import Config, KernelSpace, KnobValue
from seqgen.store.keys import canonical_json

ENUMERATED = 48
"""Spaces up to this size are tried in full, in random order."""
STARTUP = 10
ASKS_PER_SUGGESTION = 20
PENALTY = 1e4
"""Value, log of microseconds, of a configuration that cannot run: worse than any time."""


def key_of(config: Config) -> str:
    """The identity of a configuration."""
    return canonical_json(dict(config))


class Search:
    """Suggests legal configurations of a space, each once; learns from their times."""

    def __init__(self, space: KernelSpace, seed: int) -> None:
        self._space = space
        self._distributions: dict[str, Any] = {
            knob.name: IntDistribution(0, len(knob.values) - 1) for knob in space.knobs
        }
        self._values: dict[str, float] = {}
        self._pending: dict[str, Trial] = {}
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        with warnings.catch_warnings():
            # multivariate and constant_liar are "experimental" before Optuna 5.
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            sampler = optuna.samplers.TPESampler(
                seed=seed, multivariate=True, constant_liar=True, n_startup_trials=STARTUP
            )
        self._study = optuna.create_study(sampler=sampler)
        listed = list(islice(space.configs(), ENUMERATED + 1))
        self._all = listed if len(listed) <= ENUMERATED else None
        random.Random(seed).shuffle(listed)

    def tell(self, config: Config, microseconds: float | None) -> None:
        """The time of a configuration of the space; None if it cannot run or is wrong."""
        value = PENALTY if microseconds is None else math.log(microseconds)
        key = key_of(config)
        self._values[key] = value
        trial = self._pending.pop(key, None)
        if trial is not None:
            self._study.tell(trial, value)
            return
        indices = {k.name: k.values.index(config[k.name]) for k in self._space.knobs}
        self._study.add_trial(
            create_trial(params=indices, distributions=self._distributions, value=value)
        )

    def suggest(self, count: int) -> list[dict[str, KnobValue]]:
        """Up to ``count`` new configurations; none if the space seems exhausted."""
        if self._all is not None:
            new = [c for c in self._all if key_of(c) not in self._values]
            return new[:count]
        found: list[dict[str, KnobValue]] = []
        for _ in range(ASKS_PER_SUGGESTION * count):
            if len(found) == count:
                break
            trial = self._study.ask(self._distributions)
            config = {k.name: k.values[trial.params[k.name]] for k in self._space.knobs}
            key = key_of(config)
            if key in self._values:
                # TPE asks again for what it likes. Telling it once more is what moves it on.
                self._study.tell(trial, self._values[key])
            elif key in self._pending or not self._space.legal(config):
                self._study.tell(trial, PENALTY)
            else:
                self._pending[key] = trial
                found.append(config)
        return found

    def neighbours(self, config: Config) -> list[dict[str, KnobValue]]:
        """Legal configurations one step along one knob away that were not told yet."""
        found = []
        for knob in self._space.knobs:
            index = knob.values.index(config[knob.name])
            for step in (index - 1, index + 1):
                if 0 <= step < len(knob.values):
                    other = {**config, knob.name: knob.values[step]}
                    if self._space.legal(other) and key_of(other) not in self._values:
                        found.append(other)
        return found


def distance(a: Config, b: Config) -> int:
    """In how many knobs two configurations differ."""
    return sum(a.get(name) != b.get(name) for name in {*a, *b})


def diverse(configs: Sequence[Config], count: int, apart: int) -> list[Config]:
    """The first ``count`` that differ from each other in at least ``apart`` knobs."""
    chosen: list[Config] = []
    for config in configs:
        if len(chosen) < count and all(distance(config, other) >= apart for other in chosen):
            chosen.append(config)
    return chosen
