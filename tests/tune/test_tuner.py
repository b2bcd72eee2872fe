import io

from seqgen.gpu.table import GPUS
from seqgen.plan.knobs import KernelSpace, Knob
from seqgen.store.records import Measurement
from seqgen.tune.kernel_tuner import Options
from seqgen.tune.progress import Progress, clock_text
from seqgen.tune.results import KernelTask
from seqgen.tune.tuner import policy_key, tune_operator
from seqgen.tune.workload import Workload

from .fakes import FakeBench

MODULE = """
def launch_forward(x): pass
def launch_backward(x): pass
def launch_fixed(x): pass
"""
WORKLOAD = Workload("gla", "bf16", {"B": 2, "T": 64}, {}, (), (), ())
H200 = next(gpu for gpu in GPUS if gpu.name == "h200")
BASE = {"forward": 100.0, "backward": 300.0, "operator": 400.0}


def space_of(kernel, task):
    if kernel == "fixed":
        return None
    return KernelSpace(kernel, "fwd", (Knob("B", (1, 2, 4, 8)),), {"B": 1})


class ThreeKernels(FakeBench):
    def tasks(self):
        task = KernelTask("bf16", {"K": 64}, 1, 6, {"B": 1})
        return dict.fromkeys(("forward", "fixed", "backward", "operator"), task)

    def time(self, kernel, config, limit_us):
        self.time_of = lambda c: BASE[kernel] * (1.0 if c["B"] == 4 else 1.3)
        return super().time(kernel, config, limit_us)

    def finals(self, kernel, configs, seconds, seed):
        self.time_of = lambda c: BASE[kernel] * (1.0 if c["B"] == 4 else 1.3)
        return super().finals(kernel, configs, seconds, seed)


def test_kernels_in_order_each_with_the_winners_before_it(store, tmp_path):
    module = tmp_path / "gla.py"
    module.write_text(MODULE)
    bench = ThreeKernels()
    lines = io.StringIO()
    results = tune_operator(
        module, WORKLOAD, "5" * 64, H200, space_of, store, Options(budget=60.0),
        progress=Progress(lines), open_bench=lambda path, workload: bench,
    )  # fmt: skip
    order = ["operator", "backward", "forward"]
    assert [r.query.kernel.kernel for r in results] == order
    assert bench.used == [(kernel, {"B": 4}) for kernel in order]
    assert [r.ended for r in results] == ["complete"] * 3
    assert "gla backward: 300.0 us, default 390.0 us: B=4 (4 tried, 0 rejected, 0 wrong, 0:0" in (
        lines.getvalue()
    )
    records = [r for r in store.records() if isinstance(r, Measurement)]
    assert {r.policy for r in records} == {policy_key()}
    assert {r.shape["T"] for r in records} == {64}
    assert len({r.session for r in records}) == 1
    for result in results:
        q = result.query
        assert store.lookup(q.kernel, q.problem, q.device, q.toolchain, q.policy).config == {"B": 4}


def test_times_read_well():
    assert [clock_text(s) for s in (0, 65, 3725)] == ["0:00", "1:05", "1:02:05"]
