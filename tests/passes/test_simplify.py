"""Rewrites keep values: each is compared in float64 with what it replaced."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from samples import draw, draw_states
from strategies import recurrence_of, specs

from seqgen.ir.expr import (
    Apply,
    Expand,
    GroupSum,
    IfPresent,
    Number,
    Pair,
    Pick,
    Reduce,
    Ref,
    Rename,
    Size,
    add,
    call,
    div,
    mul,
    neg,
    sub,
)
from seqgen.ir.printer import show
from seqgen.ir.recurrence import Assignment
from seqgen.passes.sharing import fresh_names, inline, prune, share
from seqgen.passes.simplify import Product, in_order, simplify
from seqgen.reference.interpreter import start

X, Y, S = Ref("x", ("K",)), Ref("y", ("V",)), Ref("S", ("K", "V"))
B = Ref("b", ())
ZERO, ONE, TWO = Number(0.0), Number(1.0), Number(2.0)

SHORTER = [
    (add(X, ZERO), "x"),
    (sub(ZERO, X), "-x"),
    (mul(X, ONE), "x"),
    (neg(neg(X)), "x"),
    (add(X, neg(Y)), "x - y"),
    (sub(X, neg(Y)), "x + y"),
    (mul(neg(X), Y), "-(x * y)"),
    (mul(X, div(ONE, B)), "x / b"),
    (add(ONE, TWO), "3"),
    (call("exp", ZERO), "1"),
    (call("pow", X, TWO), "x * x"),
    (call("pow", X, Number(0.5)), "sqrt(x)"),
    (call("pow", X, Number(-0.5)), "rsqrt(x)"),
    (call("pow", X, Number(-1.0)), "1 / x"),
    (call("where", ONE, X, Y), "x"),
    (Reduce("sum", mul(X, S), "V"), "x * sum(S, V)"),
    (Reduce("sum", mul(mul(B, Y), S), "K"), "b * y * sum(S, K)"),
    (Reduce("sum", neg(X), "K"), "-sum(x, K)"),
    (Reduce("sum", div(S, X), "V"), "sum(S, V) / x"),
    (Rename(Rename(X, "K", "V"), "V", "K"), "x"),
    (IfPresent("z", IfPresent("z", X, Y), B), "(x if z else b)"),
    (IfPresent("z", X, X), "x"),
    # What could be 0 * inf stays.
    (mul(X, ZERO), "x * 0"),
    (mul(call("sigmoid", X), ZERO), "0"),
    (sub(X, X), "x - x"),
]


@pytest.mark.parametrize(("expr", "text"), SHORTER, ids=[t for _, t in SHORTER])
def test_a_shorter_form(expr, text):
    assert show(simplify(expr)) == text


def test_a_value_that_lost_its_axis_still_sums_to_its_size():
    gone = mul(call("sigmoid", X), ZERO)
    assert simplify(Reduce("sum", add(gone, B), "K")) == mul(B, Size("K"))
    assert simplify(Reduce("amax", add(gone, B), "K")) == B
    assert simplify(GroupSum(add(gone, B), "H", "K")) == mul(B, div(Size("K"), Size("H")))
    assert simplify(Expand(add(gone, B), "K", "H")) == B


def test_halves_of_a_pair():
    first, second = Ref("f", ("R",)), Ref("s", ("R",))
    both = Pair(first, second, "N", "R", "halves")
    assert simplify(Pick(both, "N", "R", 1, "halves")) == second
    assert isinstance(simplify(Pick(both, "N", "R", 1, "adjacent")), Pick)
    zero = Number(0.0)
    joined = add(Pair(first, zero, "N", "R", "halves"), Pair(zero, second, "N", "R", "halves"))
    assert simplify(joined) == both


def test_products_sum_each_axis_over_the_fewest_factors():
    product = Product.of(mul(mul(B, X), mul(Y, S)))
    assert show(product.sum(["K", "V"], ["K", "V"])) == "b * sum(x * sum(y * S, V), K)"
    assert show(product.sum(["K"], ["K", "V"])) == "b * y * sum(x * S, K)"
    assert show(Product.of(neg(div(mul(TWO, S), X))).expr()) == "-(2 * S / x)"


def test_repeated_work_gets_a_name_and_guarded_work_a_guard():
    z = Ref("z", ("K",))
    work = Apply("exp", (z,))
    program = [
        Assignment("a", IfPresent("z", add(work, X), X)),
        Assignment("b", IfPresent("z", mul(work, X), X)),
        Assignment("c", add(call("exp", X), call("exp", X))),
    ]
    shared = share(program, fresh_names([]))
    assert [f"{a.name} = {show(a.value)}" for a in shared] == [
        "arg1 = (exp(z) if z else 0)",
        "a = (arg1 + x if z else x)",
        "b = (arg1 * x if z else x)",
        "arg2 = exp(x)",
        "c = arg2 + arg2",
    ]
    assert [a.name for a in prune(shared, ["c"])] == ["arg2", "c"]
    single = inline([Assignment("t", add(X, Y)), Assignment("u", mul(Ref("t", ()), B))], ["u"])
    assert [show(a.value) for a in single] == ["(x + y) * b"]


def _values(program, op, tensors, states):
    evaluate, inputs, parameters, before = start(op, tensors, states)
    values = parameters | {name: value[:, 0] for name, value in inputs.items()} | before
    evaluate.run(program, values)
    return values


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(specs())
def test_rewriting_keeps_values(text):
    op = recurrence_of(text)
    sizes = {axis.name: axis.size for axis in op.axes}
    tensors, states = draw(op, 1, 1, sizes=sizes), draw_states(op, 1, sizes=sizes)
    wanted = _values(op.assignments, op, tensors, states)
    roots = [value for _, value in op.final]
    simple = [Assignment(a.name, in_order(simplify(a.value))) for a in op.assignments]
    names = {a.name for a in simple}
    for program in (
        simple,
        share(op.assignments, fresh_names(names)),
        prune(simple, roots),
        inline(share(simple, fresh_names(names)), roots),
    ):
        found = _values(program, op, tensors, states)
        for name in {a.name for a in program} & set(wanted):
            shape = torch.broadcast_shapes(found[name].shape, wanted[name].shape)
            torch.testing.assert_close(
                found[name].expand(shape), wanted[name].expand(shape), rtol=1e-9, atol=1e-9
            )
