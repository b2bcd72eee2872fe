import pytest

from seqgen.gpu.table import find_gpu
from seqgen.ir.printer import show
from seqgen.passes.lower import lower
from seqgen.passes.structure import analyse
from seqgen.plan.choose import choose_schedule
from seqgen.plan.delta_norms import Norm, take_norms
from seqgen.plan.linear_roles import find_roles
from seqgen.spec.loader import parse_spec


def delta(let, write="n", erase="n"):
    """A delta rule; ``let`` defines queries ``m`` and what the keys are made of."""
    return lower(
        parse_spec(
            f"""
operator: odd
axes: {{K: 16, V: 16}}
inputs: {{q: [H, K], k: [H, K], v: [H, V], beta: [H]}}
state: {{S: [H, K, V]}}
let: {let}
update: ["S = S + beta * {write} * (v - sum({erase} * S, K))"]
output: {{o: "sum(m * S, K)"}}
""",
            "odd.yaml",
        )
    )


def taken(op):
    """The norms, and what is left of the weights of write, read and erase."""
    roles, norms = take_norms(find_roles(op, analyse(op)))
    return norms, [w and show(w) for w in (roles.write, roles.read, roles.erase)]


def test_norms_leave_the_other_factors():
    keys, queries = "2 * l2norm(k, K, 1e-3)", "K ** -0.5 * l2norm(q, K) * sigmoid(beta)"
    norms, weights = taken(delta({"n": keys, "m": queries}))
    assert norms == (
        Norm("k", 1e-3, f"n = {keys}", ("write", "erase")),
        Norm("q", 1e-6, f"m = {queries}", ("read",)),
    )
    assert weights == ["2 * beta", "sigmoid(beta)", "2"]


def test_a_norm_without_an_equation_of_its_own_is_written_out():
    norms, weights = taken(delta({"m": "q"}, "l2norm(k, K)", "l2norm(k, K)"))
    assert [norm.equation for norm in norms] == ["rsqrt(sum(k * k, K) + 1e-06)"]
    assert weights == ["beta", None, None]


@pytest.mark.parametrize(
    "keys",
    [
        "l2norm(silu(k), K)",
        "k * rsqrt(sum(k * k, K) / K + 1e-6)",
        "k * rsqrt(sum(k * q, K) + 1e-6)",
        "k * rsqrt(1e-6 + beta)",
    ],
)
def test_other_factors_stay_in_the_weights(keys):
    norms, (write, _, erase) = taken(delta({"n": keys, "m": "q"}))
    assert norms == ()
    assert "rsqrt" in write
    assert "rsqrt" in erase


def test_a_norm_that_only_the_write_has_stays():
    norms, (write, _, erase) = taken(delta({"n": "l2norm(k, K)", "m": "q"}, erase="k"))
    assert norms == ()
    assert write == "beta * rsqrt(sum(k * k, K) + 1e-06)"
    assert erase is None


def test_no_row_kernel_reads_what_is_normed():
    op = delta({"n": "l2norm(k, K)", "m": "l2norm(q, K)"})
    schedule = choose_schedule(op, analyse(op), find_gpu("h100"))
    rows = {p.name: p.plan.arguments for p in schedule.kernels if p.name.startswith("linear_rows")}
    assert rows == {"linear_rows": "io, beta,", "linear_rows_backward": "io, sums,"}
