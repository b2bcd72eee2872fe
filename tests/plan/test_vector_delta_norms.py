import pytest

from seqgen.gpu.table import find_gpu
from seqgen.passes.lower import lower
from seqgen.passes.structure import analyse
from seqgen.plan.choose import choose_schedule
from seqgen.plan.delta_norms import Norm
from seqgen.plan.vector_delta_norms import take_row_norms
from seqgen.plan.vector_delta_roles import find_erase_roles
from seqgen.spec.loader import parse_spec


def erase(let, update="S + beta * n * (v - sum(n * S, K))", k="[H, K]"):
    """A delta rule with a decay per channel; ``let`` defines queries ``m`` and keys ``n``."""
    return lower(
        parse_spec(
            f"""
operator: odd
axes: {{K: 16, V: 16}}
inputs: {{q: [H, K], k: {k}, v: [H, V], g: {{axes: [H, K], dtype: float32}}, beta: [H]}}
state: {{S: [H, K, V]}}
let: {let}
update: ["S = exp(g) * S", "S = {update}"]
output: {{o: "sum(m * S, K)"}}
""",
            "odd.yaml",
        )
    )


def taken(op):
    """The norms, and which roles are tensors without them."""
    roles, norms = take_row_norms(find_erase_roles(op, analyse(op)))
    return norms, {role.name: role.leaf.tensor.name for role in roles.tiles if role.leaf}


def test_norms_leave_tensors():
    keys, queries = "l2norm(k, K, 1e-3)", "K ** -0.5 * l2norm(q, K)"
    norms, tensors = taken(erase({"n": keys, "m": queries}))
    assert norms == (Norm("q", 1e-6, f"m = {queries}"), Norm("k", 1e-3, f"n = {keys}"))
    assert tensors == {"query": "q", "key": "k", "value": "v", "gate": "g"}


@pytest.mark.parametrize(
    ("update", "role", "tile"),
    [
        ("S + n * (v - sum(q * S, K))", "put", "b"),
        ("S + beta * q * sum(q * S, K) + n * v", "key", "k"),
    ],
)
def test_what_is_written_with_keys_of_its_own(update, role, tile):
    norms, tensors = taken(erase({"n": "l2norm(k, K)", "m": "beta * q"}, update))
    assert norms == (Norm(tile, 1e-6, "n = l2norm(k, K)"),)
    assert tensors[role] == "k"


@pytest.mark.parametrize(
    "keys",
    [
        "l2norm(silu(k), K)",
        "sigmoid(beta) * l2norm(k, K)",
        "2 * l2norm(k, K)",
        "k * rsqrt(sum(k * k, K) / K + 1e-6)",
        "k * rsqrt(sum(k * q, K) + 1e-6)",
    ],
)
def test_other_tiles_are_computed(keys):
    norms, tensors = taken(erase({"n": keys, "m": "q"}))
    assert norms == ()
    assert "key" not in tensors


@pytest.mark.parametrize("k", ["{axes: [H, K], dtype: float32}", "{axes: [H, K], default: 1}"])
def test_tensors_that_kernels_cannot_take_as_they_are_stay_computed(k):
    norms, tensors = taken(erase({"n": "l2norm(k, K)", "m": "q"}, k=k))
    assert norms == ()
    assert "key" not in tensors


def test_no_row_kernel_reads_what_is_normed():
    op = erase({"n": "l2norm(k, K)", "m": "l2norm(q, K)"})
    schedule = choose_schedule(op, analyse(op), find_gpu("h100"))
    assert schedule.name == "vector_delta"
    rows = {p.name: p.plan.arguments for p in schedule.kernels if p.name.startswith("linear_rows")}
    assert not any(tensor in arguments for tensor in "qk" for arguments in rows.values()), rows
