"""Texts of expressions, and what is known of lanes beyond the true size of an axis."""

import pytest
from operator_table import from_text, recurrence

from seqgen.ir.expr import Number, Reduce, Ref, Size, call, mul
from seqgen.plan.recurrent import plan_recurrent
from seqgen.plan.tiling import plan_tiling
from seqgen.plan.triton_printer import Printer

K, V, G = Ref("k", ("H", "K")), Ref("v", ("H", "V")), Ref("g", ("H",))


@pytest.fixture
def printer():
    printer = Printer(plan_tiling(recurrence("linear_attention")))
    for ref in (K, V, G):
        printer.define(ref.name, printer.leaf(ref.name, ref.axes))
    printer.define("S", printer.leaf("S", ("H", "K", "V")))
    return printer


@pytest.mark.parametrize(
    ("expr", "text", "dims"),
    [
        (mul(K, V), "k[:, None] * v[None, :]", ("K", "V")),
        (mul(G, K), "g * k", ("K",)),
        (call("sub", G, call("sub", G, Number(2.0))), "g - (g - 2.0)", ()),
        (call("pow", Size("K"), Number(-0.5)), "K ** (-0.5)", ()),
        (call("exp", Size("K")), "tl.exp(tl.full([], K, tl.float32))", ()),
        (call("where", call("lt", K, G), K, Number(0.0)), "tl.where(k < g, k, 0.0)", ("K",)),
        (call("mul", call("lt", K, G), K), "tl.where(k < g, 1.0, 0.0) * k", ("K",)),
        (call("neg", call("add", G, G)), "-(g + g)", ()),
    ],
)
def test_texts(printer, expr, text, dims):
    tile = printer.print(expr)
    assert (tile.text.replace("** -0.5", "** (-0.5)"), tile.dims) == (text, dims)


@pytest.mark.parametrize(
    ("expr", "masked"),
    [
        (K, False),
        (mul(K, call("exp", K)), False),
        (call("sub", call("exp", K), Number(1.0)), False),
        (call("exp", K), True),
        (call("div", G, K), True),
        (mul(call("div", G, K), K), True),  # 0 * inf is not 0
        (call("add", K, G), True),
    ],
)
def test_sums_mask_what_may_not_be_zero(printer, expr, masked):
    text = printer.print(Reduce("sum", expr, "K")).text
    assert ("keep(" in text) == masked
    assert printer.helpers == ({"keep"} if masked else set())


def test_maxima_mask_with_minus_infinity(printer):
    text = printer.print(Reduce("amax", K, "K")).text
    assert text == 'tl.max(keep(k, m_K, EXACT_K, float("-inf")), axis=0)'


def test_the_equation_stands_above_its_lines(printer):
    op = recurrence("gated_deltanet")
    plan = plan_recurrent(op).kernels[0].plan
    lines = plan.token
    at = lines.index("# S = S + beta*k*(v - sum(k*S, K))")
    assert lines[at + 1] == (
        "S = S_1 + (beta * k)[:, None] * (v - tl.sum(k[:, None] * S_1, axis=0))[None, :]"
    )


def test_a_note_on_sizes_that_cannot_run():
    op = from_text(
        """
        operator: wide
        axes: {K: 256, V: 256}
        inputs: {k: [K], v: [V]}
        state: {S: [K, V]}
        update: ["S = S + k*v / (1 + sum(sum(S*S, K), V))"]
        output: {o: "sum(k*S, K)"}
        """
    )
    assert plan_recurrent(op).notes == (
        "The token-serial schedule keeps K = 256, V = 256 in one program: 65536 fp32 elements at "
        "the default sizes, at most 16384 fit. It will refuse to run there.",
    )
