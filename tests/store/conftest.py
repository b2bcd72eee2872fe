import pytest

from seqgen.store import database
from seqgen.store.keys import DeviceKey, KernelKey, PolicyKey, ProblemKey, ToolchainKey
from seqgen.store.records import Measurement, Verification
from seqgen.store.store import TuningStore

KERNEL = KernelKey("gla", "chunk_fwd", "fwd", "5" * 64, "a" * 64)
PROBLEM = ProblemKey("bf16", {"K": 128, "V": 128}, 5, 14)
H200 = DeviceKey("nvidia", "sm_90", 132, 232448, 62914560, 4800)
H100 = DeviceKey("nvidia", "sm_90", 132, 232448, 52428800, 3350)
A100 = DeviceKey("nvidia", "sm_80", 108, 166912, 41943040, 2039)
TOOLCHAIN = ToolchainKey("3.6.0", "12.8", 1)
POLICY = PolicyKey()
DEFAULT = {"BK": 64, "num_warps": 4}
FAST = {"BK": 128, "num_warps": 8}


def measured(config=FAST, us=80.0, **changes):
    values = {
        "kernel": KERNEL,
        "problem": PROBLEM,
        "device": H200,
        "toolchain": TOOLCHAIN,
        "policy": POLICY,
        "config": config,
        "shape": {"B": 2, "T": 16384, "H": 16},
        "status": "ok",
        "rung": "final",
        "role": "default" if config == DEFAULT else "candidate",
        "session": "s1",
        "created": "2026-11-22T17:00:00Z",
        "repetitions": 200,
        "median_us": us,
        "noise": 0.002,
        "gpu": "NVIDIA H200",
    }
    return Measurement(**(values | changes))


def verified(config=FAST, outcome="ok", **changes):
    values = {
        "kernel": KERNEL,
        "problem": PROBLEM,
        "device": H200,
        "toolchain": TOOLCHAIN,
        "config": config,
        "outcome": outcome,
        "session": "s1",
        "created": "2026-11-22T17:00:00Z",
        "worst": "dq",
        "error": 0.003,
        "limit": 0.008,
    }
    return Verification(**(values | changes))


def race(**changes):
    """A default at 100 us and a faster configuration at 80 us, both verified."""
    return [
        measured(DEFAULT, 100.0, **changes),
        measured(FAST, 80.0, **changes),
        *(
            verified(c, **{k: v for k, v in changes.items() if k in ("problem", "device")})
            for c in (DEFAULT, FAST)
        ),
    ]


@pytest.fixture
def empty(tmp_path):
    """A folder of shipped records without any."""
    folder = tmp_path / "shipped"
    folder.mkdir()
    return folder


@pytest.fixture
def store(tmp_path, empty):
    with TuningStore.open(tmp_path / "tuning.sqlite", bundled=empty) as opened:
        yield opened


@pytest.fixture(autouse=True)
def forget_warnings():
    database._warned.clear()
