"""A kernel whose times are a formula, and a bench that runs it."""

import math

from seqgen.plan.knobs import KernelSpace, Knob
from seqgen.store.keys import DeviceKey, KernelKey, PolicyKey, ProblemKey, ToolchainKey
from seqgen.store.lookup import Query
from seqgen.tune.results import Compiled, KernelTask, Timed, Timing, Verdict
from seqgen.tune.search import key_of

DEFAULT = {"BK": 32, "BV": 32, "num_warps": 4, "num_stages": 2, "tma": False}
SPACE = KernelSpace(
    kernel="chunk",
    role="fwd",
    knobs=(
        Knob("BK", (16, 32, 64, 128)),
        Knob("BV", (16, 32, 64, 128)),
        Knob("num_warps", (1, 2, 4, 8)),
        Knob("num_stages", (1, 2, 3, 4)),
        Knob("tma", (False, True)),
    ),
    default=DEFAULT,
    legal=lambda c: c["BK"] * c["BV"] <= 8192,
)
BEST = {"BK": 64, "BV": 128, "num_warps": 8, "num_stages": 3, "tma": True}
QUERY = Query(
    KernelKey("gla", "chunk", "fwd", "5" * 64, "a" * 64),
    ProblemKey("bf16", {"K": 128, "V": 128}, 5, 14),
    DeviceKey("nvidia", "sm_90", 132, 232448, 62914560, 4800),
    ToolchainKey("3.6.0", "12.8", 1),
    PolicyKey(),
)


def true_time(config):
    """Microseconds, least at BEST: 100 there, more with every step away from it."""
    steps = sum(
        abs(math.log2(config[n]) - math.log2(BEST[n])) for n in ("BK", "BV", "num_warps")
    ) + abs(config["num_stages"] - BEST["num_stages"])
    return 100.0 * (1.1**steps) * (1.0 if config["tma"] else 1.05)


class FakeBench:
    """Times by ``true_time``; what is wrong, rejected or deadly is said by the test."""

    gpu = "NVIDIA H200"
    driver = "580.1"

    def __init__(self, wrong=None, rejected=None, crashing=None, time_of=true_time, clock=None):
        self.wrong = wrong or (lambda c: False)
        self.rejected = rejected or (lambda c: False)
        self.crashing = crashing or (lambda c: False)
        self.time_of = time_of
        self.clock = clock
        self.compiled, self.timed, self.judged, self.raced, self.used = [], [], [], [], []

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def tasks(self):
        return {"chunk": KernelTask("bf16", {"K": 128, "V": 128}, 5, 14, DEFAULT)}

    def use(self, kernel, config):
        self.used.append((kernel, dict(config)))

    def compile(self, kernel, configs, *, gate):
        self.compiled += [(key_of(c), gate) for c in configs]
        return [
            Compiled("too large") if self.rejected(c) else Compiled("", 64, 0, 1024)
            for c in configs
        ]

    def time(self, kernel, config, limit_us):
        if self.clock is not None:
            self.clock.now += 1.0
        self.timed.append(key_of(config))
        if self.crashing(config):
            return Timed("crashed", reason="illegal memory access")
        us = self.time_of(config)
        return Timed("ok", Timing(20, us, us, us, 0.0))

    def gate(self, kernel, config):
        self.judged.append(key_of(config))
        if self.wrong(config):
            return Verdict("racy", "ragged d_q")
        return Verdict("ok", "ragged d_q", 0.004, 0.008)

    def finals(self, kernel, configs, seconds, seed):
        self.raced.append([key_of(c) for c in configs])
        times = [self.time_of(c) for c in configs]
        return [Timing(200, us, us, us, 0.0) for us in times], 0.002


class Clock:
    """Seconds that pass only where a test says so."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now
