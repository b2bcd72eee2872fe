import math

import torch
from operator_table import recurrence

from seqgen.reference.compare import compare, gradient_kind, relative_error


def test_the_error_is_relative():
    reference = torch.tensor([3.0, 4.0])
    assert math.isclose(relative_error(reference * 1.01, reference), 0.01, rel_tol=1e-5)


def test_nan_shape_and_infinity_are_failures_unless_equal():
    one = torch.ones(2)
    assert relative_error(torch.tensor([1.0, math.nan]), one) == math.inf
    assert relative_error(torch.ones(3), one) == math.inf
    assert relative_error(torch.tensor([1.0, math.inf]), one) == math.inf
    infinite = torch.tensor([1.0, -math.inf])
    assert relative_error(infinite, infinite) == 0.0


def test_a_vanishing_reference_needs_a_floor():
    tiny, zero = torch.full((4,), 1e-9), torch.zeros(4)
    assert relative_error(tiny, zero) == math.inf
    assert relative_error(zero, zero) == 0.0
    assert relative_error(tiny, zero, floor=1e-3) < 1e-5


def test_reports_say_which_limit():
    result = compare("dg", torch.ones(2), torch.full((2,), 1.1), "gate", "bf16")
    assert not result.ok
    assert str(result) == "dg: error 9.09e-02 > 0.02"


def test_gates_are_found():
    op = recurrence("gated_deltanet_gates")
    kinds = {t.name: gradient_kind(op, t.name) for t in op.tensors}
    assert kinds == {
        "q": "gradient",
        "k": "gradient",
        "v": "gradient",
        "a": "gate",
        "b": "gate",
        "A_log": "gate",
        "dt_bias": "gate",
    }
    assert gradient_kind(op, "S") == "gradient"
    assert gradient_kind(recurrence("gla"), "g") == "gate"
    assert gradient_kind(recurrence("kda"), "k") == "gradient"
