"""All examples against float64 autograd: lengths, packs, and decays of every strength."""

import pytest

from seqgen.verify import verify
from tests.operator.operators import SPECS


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("name", SPECS)
def test_results_and_gradients(load, name, dtype):
    rows = verify(load(name), dtype)
    wrong = [f"{r.case}, {r.tensor}: {r.error:.2e} > {r.limit:.0e}" for r in rows if not r.passed]
    assert not wrong, "\n".join(wrong)
