import math
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from seqgen.errors import SeqgenError
from seqgen.tune import remote
from seqgen.tune.remote import RemoteBench
from seqgen.tune.workload import Operand, Workload

HERE = Path(__file__).parent
COMMAND = (sys.executable, str(HERE / "toy_worker.py"))
X = Operand("x", ("D",), True, "io", None, None, False, True)
G = Operand("g", ("D",), True, "float32", -math.inf, 0.0, False, True)
TOY = Workload("toy", "fp32", {"B": 1, "T": 6, "D": 16}, {}, ("D",), (X, G), (("D",),))
RIGHT = {"BD": 32, "mode": "right"}


def mode(name):
    return {"BD": 32, "mode": name}


@pytest.fixture(scope="module")
def bench():
    with RemoteBench(HERE / "toy_module.py", TOY, COMMAND) as opened:
        yield opened


def test_the_worker_describes_its_kernels(bench):
    tasks = bench.tasks()
    assert list(tasks) == ["scan_fwd", "scan_bwd"]
    forward, backward = tasks.values()
    assert (forward.dtype, forward.sizes, forward.load, forward.length) == ("fp32", {"D": 16}, 0, 2)
    assert forward.default == backward.default == RIGHT
    assert (bench.gpu, bench.driver) == ("toy", "1")


def test_one_kernel_is_timed_with_one_configuration(bench):
    slow = bench.time("scan_fwd", mode("slow"), None)
    assert slow.status == "ok"
    assert slow.timing.median_us > 10_000
    assert bench.time("scan_fwd", RIGHT, None).timing.median_us < 10_000
    # A hopeless time is not repeated for precision.
    assert bench.time("scan_fwd", mode("slow"), 100.0).timing.repetitions == 5


def test_the_gate_passes_what_is_right(bench):
    verdict = bench.gate("scan_fwd", RIGHT)
    assert verdict.outcome == "ok"
    assert verdict.error < 1e-6
    assert verdict.limit == 1e-4


@pytest.mark.parametrize(
    ("kernel", "name", "outcome", "worst"),
    [
        ("scan_fwd", "wrong", "inaccurate", "ragged output_0"),
        ("scan_fwd", "racy", "racy", "ragged output_0"),
        ("scan_fwd", "unwritten", "nan", "ragged output_0"),
        ("scan_fwd", "wrong_at_six", "inaccurate", "full_size output_0"),
        ("scan_bwd", "wrong", "inaccurate", "ragged d_g"),
        ("scan_bwd", "racy", "racy", "ragged d_g"),
        ("scan_bwd", "unwritten", "nan", "ragged d_g"),
    ],
)
def test_the_gate_finds_what_is_wrong(bench, kernel, name, outcome, worst):
    verdict = bench.gate(kernel, mode(name))
    assert (verdict.outcome, verdict.worst) == (outcome, worst)
    # And leaves nothing behind.
    assert bench.gate(kernel, RIGHT).outcome == "ok"


def test_what_raises_is_rejected_and_the_worker_lives(bench):
    before = bench._worker.starts
    timed = bench.time("scan_fwd", mode("raise"), None)
    assert (timed.status, timed.reason) == (
        "rejected",
        "RuntimeError: out of resource: shared memory",
    )
    assert bench.gate("scan_fwd", mode("raise")).outcome == "crashed"
    assert bench.time("scan_fwd", RIGHT, None).status == "ok"
    assert bench._worker.starts == before


def test_a_crash_costs_one_candidate(bench):
    before = bench._worker.starts
    assert bench.time("scan_fwd", mode("crash"), None).status == "crashed"
    assert bench.gate("scan_bwd", mode("crash")).outcome == "crashed"
    assert bench.finals("scan_fwd", [RIGHT, mode("crash")], 0.01, 0) is None
    assert bench.time("scan_fwd", RIGHT, None).status == "ok"
    assert bench._worker.starts == before + 3


def test_a_hang_is_killed_at_its_deadline(bench, monkeypatch):
    monkeypatch.setattr(remote, "TIME_DEADLINE", 1.0)
    timed = bench.time("scan_fwd", mode("hang"), None)
    assert (timed.status, timed.reason) == ("timeout", "no answer within 1 s")
    monkeypatch.undo()
    assert bench.time("scan_fwd", RIGHT, None).status == "ok"


def test_finals(bench):
    timings, noise = bench.finals("scan_fwd", [RIGHT, mode("slow")], 0.05, 0)
    assert [t.repetitions >= 20 for t in timings] == [True, True]
    assert timings[0].median_us < 10_000 < timings[1].median_us
    assert noise >= 0  # how large depends on what else the machine does


def test_what_was_settled_survives_a_crash(bench):
    bench.use("scan_fwd", mode("wrong"))
    assert bench.gate("scan_bwd", RIGHT).outcome == "inaccurate"
    assert bench.time("scan_bwd", mode("crash"), None).status == "crashed"
    assert bench.gate("scan_bwd", RIGHT).outcome == "inaccurate"
    assert bench.tasks()["scan_fwd"].default == RIGHT
    bench.use("scan_fwd", RIGHT)
    assert bench.gate("scan_bwd", RIGHT).outcome == "ok"


def test_compiling_answers_for_each_configuration(bench):
    assert [c.registers for c in bench.compile("scan_fwd", [RIGHT, RIGHT], gate=True)] == [32, 32]


def test_an_operator_that_does_not_run_is_an_error():
    with pytest.raises(SeqgenError, match="The tuning worker cannot start: AttributeError"):
        RemoteBench(HERE / "toy_module.py", replace(TOY, op="other"), COMMAND)


def test_a_worker_that_dies_at_once_is_an_error():
    dying = (sys.executable, "-c", "import sys; sys.exit('no GPU here')")
    with pytest.raises(SeqgenError, match=r"cannot start: the process died\. no GPU here"):
        RemoteBench(HERE / "toy_module.py", TOY, dying)
