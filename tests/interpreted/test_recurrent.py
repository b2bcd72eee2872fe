"""The token-serial kernels against the float64 interpreter, in fp32."""

import pytest
import torch

from seqgen.ir.recurrence import Recurrence
from seqgen.plan.recurrent import plan_recurrent
from tests.interpreted.operators import build, call, compare
from tests.passes.operator_table import from_text, recurrence
from tests.reference.samples import draw, draw_states

SIZES = {"H": 2, "HV": 4, "K": 5, "V": 7, "D": 5, "G": 2, "N": 3, "P": 5, "M": 3, "J": 5, "R": 2}
SMALL = {"C": 3, "BV": 4, "BD": 2, "BP": 2, "BM": 2, "num_warps": 1}


def sizes_of(op: Recurrence) -> dict[str, int]:
    """Odd sizes that are no powers of two, relations kept."""
    sizes = {axis.name: axis.size if axis.fixed else SIZES[axis.name] for axis in op.axes}
    for axis in op.axes:
        if axis.twin:
            sizes[axis.name] = sizes[axis.twin]
        if axis.derived:
            sizes[axis.name] = eval(axis.derived, {}, sizes)
        if axis.parent:
            sizes[axis.name] = (3 if axis.name == "D" else 2) * sizes[axis.parent]
    return sizes


def check(op, folder, length=5, batch=2, absent=(), initial=True, seeds=None, limit=1e-5, **more):
    sizes = sizes_of(op)
    tensors = draw(op, batch, length, sizes=sizes, absent=absent)
    borders = more.pop("borders", None)
    count = batch if borders is None else len(borders) - 1
    states = draw_states(op, count, sizes=sizes) if initial else {}
    cu_seqlens = None if borders is None else torch.tensor(borders, dtype=torch.int32)
    module = build(op, plan_recurrent(op), folder, **{**SMALL, **more})
    return compare(module, op, tensors, states, cu_seqlens, seeds, limit)


@pytest.mark.parametrize(
    "name",
    [
        "linear_attention", "retnet", "rwkv6", "gated_deltanet", "delta_product", "gated_oja",
        "hgrn", "mamba1", "mamba2", "mamba3", "mlstm", "gsa", "abc", "preconditioned_gdn", "ttt",
        "ttt_minibatch", "slstm", "s4d", "second_order", "key_value_decay",
        "gated_deltanet_gates", "kda", "gdn2", "comba", "delta_per_value", "dplr",
    ],
)  # fmt: skip
def test_operators_of_the_table(name, tmp_path):
    op = recurrence(name)
    # Layer norm inside the update loses digits: its variance is over 7 numbers.
    check(op, tmp_path, limit=1e-4 if name.startswith("ttt") else 1e-5)


SATURATING = """
    operator: saturating
    axes: {H: 2, K: 4, V: 4}
    inputs: {k: [H, K], v: [H, V], q: [H, K], f: [H]}
    parameters: {b: [H, V]}
    state: {S: [H, K, V]}
    update:
      - "S = tanh(sigmoid(f)*S + k*(v + b))"
    output: {o: "sum(q*S, K)"}
    """


@pytest.mark.parametrize("length", [0, 1, 2, 3, 11])
def test_lengths(length, tmp_path):
    check(from_text(SATURATING), tmp_path, length=length)


@pytest.mark.parametrize("order", ["forward", "reverse"])
def test_packed_sequences_with_an_empty_one(order, tmp_path):
    op = from_text(SATURATING + f"scan: {{order: {order}}}\n")
    check(op, tmp_path, length=9, batch=1, borders=[0, 4, 4, 5, 9])


def test_reverse(tmp_path):
    check(from_text(SATURATING + "scan: {order: reverse}\n"), tmp_path)


def test_without_initial_state(tmp_path):
    check(from_text(SATURATING), tmp_path, initial=False)


@pytest.mark.parametrize("seeds", [["o"], ["S_final"]])
def test_only_some_results_have_a_gradient(seeds, tmp_path):
    check(from_text(SATURATING), tmp_path, seeds=seeds)


def test_absent_optional_tensor(tmp_path):
    value = check(recurrence("mamba1"), tmp_path, absent=("z",))
    assert "gradient of z" not in value


DEFAULTED = """
    operator: defaulted
    axes: {D: 8}
    inputs: {x: [D], g: {axes: [D], default: 0.5}}
    parameters: {w: {axes: [D], default: 2}}
    state: {h: [D]}
    update: ["h = g*h + w*x"]
    output: {y: h}
    """


@pytest.mark.parametrize("absent", [(), ("g",), ("w",), ("g", "w")])
def test_default_values(absent, tmp_path):
    check(from_text(DEFAULTED), tmp_path, absent=absent)


def test_two_taps_of_prev_and_position(tmp_path):
    op = from_text(
        """
        operator: taps
        axes: {D: 8}
        inputs: {x: [D], w: [D]}
        parameters: {a: [D]}
        state: {h: [D]}
        let: {y: "x + a*prev(x) + 0.5*prev(prev(x))"}
        update: ["h = where(position() % 3 == 0, 0.5*h, sigmoid(w)*h) + prev(y)*y"]
        output: {o: h}
        """
    )
    check(op, tmp_path)
    check(op, tmp_path, length=8, batch=1, borders=[0, 1, 1, 3, 8])


@pytest.mark.parametrize("pairs", ["adjacent", "halves"])
@pytest.mark.parametrize("half", [3, 4])
def test_rotations(pairs, half, tmp_path, monkeypatch):
    op = from_text(
        f"""
        operator: rotated
        axes: {{H: 2, R: {half}, K: 2*R, V: 4}}
        inputs: {{q: [H, K], k: [H, K], v: [H, V], angle: [H, R]}}
        state: {{S: [H, K, V]}}
        let: {{k: "rotary(k, K, angle, R, pairs={pairs})"}}
        update: ["S = S + k*v"]
        output: {{o: "sum(rotary(q, K, angle, R, pairs={pairs})*S, K)"}}
        """
    )
    monkeypatch.setitem(SIZES, "R", half)
    check(op, tmp_path)


def test_results_that_lack_the_split_axis(tmp_path):
    """Every block of V computes m; one of them stores it, and takes its gradient in."""
    op = from_text(
        """
        operator: shared
        axes: {H: 2, K: 4, V: 8}
        inputs: {q: [H, K], k: [H, K], v: [H, V], i: [H]}
        state: {m: [H], S: [H, K, V]}
        update:
          - "m = tanh(m + i)"
          - "S = sigmoid(m)*S + k*v"
        output: {o: "sum(q*S, K)", level: "m*m"}
        """
    )
    check(op, tmp_path)
    check(op, tmp_path, seeds=["level", "m_final"])


def test_reduction_over_a_grouped_axis(tmp_path):
    """Heads and their groups in one program: every member of a group reads its parent."""
    op = from_text(
        """
        operator: pooled
        axes: {H: 2, HV: {groups_of: H}, V: 4}
        inputs: {a: [H], v: [HV, V]}
        state: {S: [HV, V]}
        update: ["S = sigmoid(a)*S + v/(1 + sum(v*v, HV))"]
        output: {o: "sum(a*S, HV)"}
        """
    )
    check(op, tmp_path)


def test_names_that_the_kernel_uses_itself(tmp_path):
    op = from_text(
        """
        operator: clashes
        axes: {H: 2, K: 4, V: 4}
        inputs: {row: [H, K], BV: [H, V], T: [H, K], bos: [H]}
        parameters: {chunk: [H], o_K: [H, K]}
        state: {S: [H, K, V]}
        let: {t: "row*o_K", i_H: "sigmoid(bos)*chunk"}
        update: ["S = i_H*S + t*BV"]
        output: {o: "sum(T*S, K)"}
        """
    )
    check(op, tmp_path)


def test_the_same_bits_twice(tmp_path):
    op = recurrence("gated_deltanet")
    first, second = (check(op, tmp_path) for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_half_precision_results_have_the_dtype_of_the_inputs(tmp_path):
    op = from_text(SATURATING)
    sizes = sizes_of(op)
    tensors = {n: t.bfloat16() for n, t in draw(op, sizes=sizes).items()}
    module = build(op, plan_recurrent(op), tmp_path, **SMALL)
    rounded = {name: tensor.double() for name, tensor in tensors.items()}
    compare(module, op, rounded, {})
    for tensor in tensors.values():
        tensor.requires_grad_()
    outputs, finals = call(module, op, tensors, {})
    assert outputs["o"].dtype == torch.bfloat16 and finals["S"].dtype == torch.float32
    outputs["o"].float().sum().backward()
    assert all(tensor.grad.dtype == torch.bfloat16 for tensor in tensors.values())


def test_tiles_beyond_the_registers_are_refused(tmp_path):
    op = from_text(
        """
        operator: wide
        axes: {K: 4, V: 4}
        inputs: {k: [K], v: [V]}
        state: {S: [K, V]}
        update: ["S = tanh(S + k*v) / (1 + sum(sum(S*S, K), V))"]
        output: {o: "sum(k*S, K)"}
        """
    )
    module = build(op, plan_recurrent(op), tmp_path)
    with pytest.raises(ValueError) as caught:
        module.wide(torch.zeros(1, 2, 200), torch.zeros(1, 2, 100))
    assert str(caught.value) == (
        "wide: one program must hold all of [K, V] = [200, 100], 32768 fp32 elements with "
        "padding; at most 16384 fit."
    )


def test_step_is_one_token(tmp_path):
    op = recurrence("gated_deltanet")
    sizes = sizes_of(op)
    tensors = {n: t.float() for n, t in draw(op, length=3, sizes=sizes).items()}
    states = {n: s.float() for n, s in draw_states(op, sizes=sizes).items()}
    module = build(op, plan_recurrent(op), tmp_path, **SMALL)
    outputs, finals = call(module, op, tensors, states)
    state = states["S"].clone()
    for t in range(3):
        token = [tensors[x.name][:, t] for x in op.argument_order()]
        o, returned = module.gated_deltanet_step(*token, state)
        assert torch.equal(o, outputs["o"][:, t]) and returned is state
    assert torch.equal(state, finals["S"])
