"""Expected numbers: the roofline table of the performance reference, H200 at measured rates."""

from dataclasses import replace

import pytest
from operator_table import recurrence

from seqgen.gpu.table import find_gpu
from seqgen.passes.structure import analyse
from seqgen.plan.cost import token_cost

H200 = replace(find_gpu("h200"), dram_rate=4.3e12, bf16_rate=790e12)
TOKENS = 32768
SIZES = {"H": 16, "HV": 16, "K": 128, "V": 128, "N": 128, "P": 128, "G": 16}

# operator -> forward: memory, matrix products; backward: the same; microseconds
TABLE = {
    "simple_gla": (125, 65, 219, 163),
    "gla": (156, 65, 281, 163),
    "gated_deltanet": (126, 111, 220, 315),
    "kda": (156, 111, 281, 315),
    "rwkv7": (218, 187, 406, 522),
}


@pytest.mark.parametrize("name", TABLE)
def test_roofline_of_the_table(name):
    cost = token_cost(analyse(recurrence(name)), sizes=SIZES)
    found = []
    for work in (cost.forward, cost.backward):
        limits = work.limits(H200, "bf16")
        found += [limits["memory"], limits["matrix products"]]
    assert [x * TOKENS * 1e6 for x in found] == pytest.approx(TABLE[name], rel=0.01, abs=1.0)


def test_elementwise_scan():
    cost = token_cost(analyse(recurrence("hgrn")), sizes={"D": 2048})
    forward, backward = cost.floor(H200)
    assert forward * TOKENS * 1e6 == pytest.approx(94, rel=0.01)
    assert backward * TOKENS * 1e6 == pytest.approx(156, rel=0.01)
    assert cost.chunk is None


def test_selective_scan_is_bound_by_exponentials():
    cost = token_cost(analyse(recurrence("mamba1")), sizes={"D": 2048, "N": 16, "G": 1})
    limits = cost.forward.limits(H200, "bf16")
    assert max(limits, key=limits.__getitem__) == "special functions"
    assert limits["special functions"] * TOKENS * 1e6 == pytest.approx(330, rel=0.15)


def test_state_bytes_count_delay_states():
    cost = token_cost(analyse(recurrence("mamba3")))
    h, n, p, r = 4, 64, 64, 32
    assert cost.state_bytes == 4 * (h * r + h * n * p + h * n + h * p)


def test_fp32_moves_twice_the_bytes():
    bf16, fp32 = (token_cost(analyse(recurrence("gla")), dtype=d) for d in ("bf16", "fp32"))
    assert fp32.forward.bytes == 2 * bf16.forward.bytes
