"""All examples against float64 autograd: lengths, packs, and decays of every strength."""

import pytest

from seqgen.verify import verify
from tests.operator.operators import SPECS

MISSED = {
    (
        "abc",
        "bf16",
    ): "d q: slots that are nearly alike cancel in its softmax's gradient (0.012, not 0.008)"
}


def cases():
    for name in SPECS:
        for dtype in ("fp32", "bf16", "fp16"):
            reason = MISSED.get((name, dtype))
            marks = [pytest.mark.xfail(strict=True, reason=reason)] if reason else []
            yield pytest.param(name, dtype, marks=marks, id=f"{name}-{dtype}")


@pytest.mark.parametrize(("name", "dtype"), list(cases()))
def test_results_and_gradients(load, name, dtype):
    rows = verify(load(name), dtype)
    wrong = [f"{r.case}, {r.tensor}: {r.error:.2e} > {r.limit:.0e}" for r in rows if not r.passed]
    assert not wrong, "\n".join(wrong)
