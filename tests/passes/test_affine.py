"""Affine terms against forms worked out by hand."""

import pytest
from operator_table import from_text, qkv

from seqgen.ir.expr import Expand, Ref, call
from seqgen.ir.printer import show
from seqgen.passes.affine import Affine, NotAffineError, atoms, factors_of, product
from seqgen.passes.components import Program

AXES = {"H": "2", "K": "4", "V": "3", "J": "5"}


def terms(update):
    """``number | factors | bound: weight | state`` of the first update of S."""
    inputs = {"g": "[H]", "w": "[H, V]", "x": "[J]", "a": "[H, K]", "b": "[K, J]"}
    rec = from_text(qkv("op", update, inputs, let={}, axes=AXES))
    program = Program(rec)
    affine = Affine(frozenset(["S_prev"]), program.wide)
    found = []
    for t in affine.terms(rec.update[0].value):
        factors, weight = (" ".join(sorted(map(show, fs))) for fs in (t.factors, t.weight))
        found.append(f"{t.number:g} | {factors} | {','.join(t.bound)}: {weight} | {t.state}")
    return found


@pytest.mark.parametrize(
    ("update", "expected"),
    [
        ("S = exp(g)*S + k*v", ["1 | exp(g) | :  | S_prev", "1 | k v | :  | None"]),
        (
            "S = S + k*(v - 2*sum(a*S, K))",
            ["1 |  | :  | S_prev", "1 | k v | :  | None", "-2 | k | K: a | S_prev"],
        ),
        ("S = S/g - S/4", ["1 | 1 / g | :  | S_prev", "-0.25 |  | :  | S_prev"]),
        ("S = S + S - g*S + k*v", [
            "2 |  | :  | S_prev", "-1 | g | :  | S_prev", "1 | k v | :  | None"]),
        ("S = S - (S - k*v)", ["1 | k v | :  | None"]),
        ("S = S + k*v + a*w", [
            "1 |  | :  | S_prev", "1 | k v | :  | None", "1 | a w | :  | None"]),
        # a sum over an axis that the state lacks stays outside, or counts the axis
        ("S = sum(x*g*S, J)", ["1 | g sum(x, J) | :  | S_prev"]),
        ("S = sum(S*x - S*x + x*k*v, J)", ["1 | k sum(x, J) v | :  | None"]),
        # a later sum over an axis of the weight goes inside
        ("S = S + k*sum(sum(b*x*S, K), J)", [
            "1 |  | :  | S_prev", "1 | k | K: sum(b * x, J) | S_prev"]),
        ("S = where(g > 0, S, k*v)", [
            "1 | where(g > 0, 1, 0) | :  | S_prev", "1 | k v where(g > 0, 0, 1) | :  | None"]),
    ],
)  # fmt: skip
def test_terms(update, expected):
    assert sorted(terms(update)) == sorted(expected)


@pytest.mark.parametrize(
    ("update", "reason"),
    [
        ("S = exp(S) + k*v", "exp(S_prev) is not linear in the state"),
        ("S = S*S + k*v", "S_prev * S_prev is not linear in the state"),
        ("S = S + k*v/sum(k*S, K)", "k * v / sum(k * S_prev, K) is not linear in the state"),
        ("S = detach(S) + k*v", "detach(S_prev) is not linear in the state"),
    ],
)
def test_what_is_not_affine(update, reason):
    with pytest.raises(NotAffineError) as error:
        terms(update)
    assert str(error.value) == reason


def test_atoms_split_exponentials_through_groups():
    a, b = Ref("a", ("H",)), Ref("b", ())
    grouped = Expand(call("exp", call("sub", a, b)), "H", "HV")
    assert atoms([grouped]) == (
        Expand(call("exp", a), "H", "HV"),
        call("exp", call("neg", b)),
    )


def test_factors_and_product_are_inverse():
    a, b = Ref("a", ("H",)), Ref("b", ())
    expr = call("neg", call("div", call("mul", a, b), b))
    number, factors = factors_of(expr)
    assert number == -1.0
    assert show(product(factors, number)) == "-(a * b) / b"
