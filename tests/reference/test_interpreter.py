"""The interpreter against operators written by hand in PyTorch."""

import itertools

import pytest
import torch
from operator_table import from_text, recurrence
from samples import draw, draw_states, small_sizes

from seqgen.errors import UsageError
from seqgen.reference.interpreter import run


def close(a, b):
    torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_gated_delta_rule_with_grouped_heads():
    op = recurrence("gated_deltanet")
    x = draw(op)
    initial = draw_states(op)
    outputs, finals = run(op, x, initial)
    unit = lambda a: a / (a.square().sum(-1, keepdim=True) + 1e-6).sqrt()
    groups = x["v"].shape[2] // x["k"].shape[2]
    q = (unit(x["q"]) * x["q"].shape[-1] ** -0.5).repeat_interleave(groups, 2)
    k = unit(x["k"]).repeat_interleave(groups, 2)
    state, rows = initial["S"], []
    for t in range(q.shape[1]):
        state = x["g"][:, t, :, None, None].exp() * state
        error = x["v"][:, t] - torch.einsum("bhk,bhkv->bhv", k[:, t], state)
        state = state + torch.einsum("bh,bhk,bhv->bhkv", x["beta"][:, t], k[:, t], error)
        rows.append(torch.einsum("bhk,bhkv->bhv", q[:, t], state))
    close(outputs["o"], torch.stack(rows, 1))
    close(finals["S"], state)


def test_selective_scan_with_and_without_its_gate():
    op = recurrence("mamba1")
    x = draw(op)
    dt = torch.nn.functional.softplus(x["delta"] + x["delta_bias"])
    groups = x["u"].shape[2] // x["B"].shape[2]
    b, c = (x[n].repeat_interleave(groups, 2) for n in "BC")
    h, rows = 0.0, []
    for t in range(dt.shape[1]):
        h = (dt[:, t, :, None] * x["A"]).exp() * h
        h = h + (dt[:, t] * x["u"][:, t])[..., None] * b[:, t]
        rows.append((h * c[:, t]).sum(-1) + x["skip"] * x["u"][:, t])
    plain = torch.stack(rows, 1)
    close(run(op, x)[0]["y"], plain * torch.nn.functional.silu(x["z"]))
    del x["z"]
    close(run(op, x)[0]["y"], plain)


def test_rotation_by_an_angle_is_a_complex_product():
    for pairs in ("adjacent", "halves"):
        op = from_text(f"""
            operator: turn
            axes: {{R: 3, N: 2*R}}
            inputs: {{x: [N], th: [R]}}
            state: {{S: [N]}}
            update: ["S = S + rotary(x, N, th, R, {pairs})"]
            output: {{o: S - prev(S)}}
            """)
        x, th = torch.randn(1, 2, 6).double(), torch.randn(1, 2, 3).double()
        turned = run(op, {"x": x, "th": th})[0]["o"]
        if pairs == "adjacent":
            parts = lambda a: torch.complex(a[..., 0::2], a[..., 1::2])
        else:
            parts = lambda a: torch.complex(a[..., :3], a[..., 3:])
        close(parts(turned), parts(x) * torch.polar(torch.ones_like(th), th))


def test_builtins_are_those_of_torch():
    op = from_text("""
        operator: several
        axes: {K: 4, V: {same_as: K}}
        inputs: {x: [K], y: [K]}
        state: {S: [K, V]}
        update: ["S = S + x * rename(y, K=V)"]
        output:
          a: softmax(x, K)
          b: mean(x, K) + amax(y, K) + sum(sum(S, K), V)
          c: where(x > y, clamp(x, -0.5, 0.5), relu(y))
          d: "sum(S * index(V), V) / V + logaddexp(x, y)"
        """)
    x = draw(op, 1, 1)
    out = run(op, x)[0]
    u, w = x["x"][0, 0], x["y"][0, 0]
    outer = torch.outer(u, w)
    close(out["a"][0, 0], u.softmax(0))
    close(out["b"][0, 0], u.mean() + w.amax() + outer.sum())
    close(out["c"][0, 0], torch.where(u > w, u.clamp(-0.5, 0.5), w.relu()))
    ramp = torch.arange(len(w)).double()
    close(out["d"][0, 0], outer @ ramp / len(w) + torch.logaddexp(u, w))


def test_reverse_is_a_flipped_run():
    text = """
        operator: back
        axes: {D: 3}
        inputs: {x: [D]}
        state: {h: [D]}
        update: ["h = 0.5 * h + prev(x) * position()"]
        output: {o: h + x}
        scan: {order: ORDER}
        """
    forward, reverse = (from_text(text.replace("ORDER", o)) for o in ("forward", "reverse"))
    x, states = draw(forward), draw_states(forward)
    outputs, finals = run(reverse, x, states)
    wanted, wanted_finals = run(forward, {"x": x["x"].flip(1)}, states)
    close(outputs["o"], wanted["o"].flip(1))
    for name, value in finals.items():
        close(value, wanted_finals[name])


def test_packed_sequences_are_separate_runs():
    op = recurrence("mamba3")
    x, states = draw(op, 1, 9), draw_states(op, 4)
    bounds = [0, 2, 2, 8, 9]
    outputs, finals = run(op, x, states, torch.tensor(bounds))
    parameters = {t.name for t in op.parameters}
    for i, (start, stop) in enumerate(itertools.pairwise(bounds)):
        part = {n: v if n in parameters else v[:, start:stop] for n, v in x.items()}
        wanted, wanted_finals = run(op, part, {n: s[i : i + 1] for n, s in states.items()})
        close(outputs["o"][:, start:stop], wanted["o"])
        for name, value in finals.items():
            close(value[i : i + 1], wanted_finals[name])
    close(finals["S"][1], states["S"][1])


def test_no_tokens_leave_the_initial_state():
    op = recurrence("abc")
    x = draw(op, 2, 0)
    outputs, finals = run(op, x)
    sizes = small_sizes(op)
    assert outputs["o"].shape == (2, 0, sizes["H"], sizes["V"])
    assert (finals["z"] == -torch.inf).all() and (finals["Hk"] == 0).all()
    states = draw_states(op)
    _, finals = run(op, x, states)
    assert all(torch.equal(finals[n], states[n]) for n in states)


def test_a_default_stands_for_an_absent_tensor():
    op = from_text("""
        operator: scaled
        axes: {D: 3}
        inputs: {w: {axes: [D], default: 2}, x: [D]}
        state: {h: [D]}
        update: ["h = h + w * x"]
        output: {o: h}
        """)
    x = torch.ones(1, 2, 3)
    close(run(op, {"x": x})[0]["o"], torch.tensor([2.0, 4.0])[None, :, None].expand(1, 2, 3))
    close(run(op, {"x": x, "w": x})[0]["o"][0, 1], torch.full((3,), 2.0))


def test_wrong_tensors_are_named():
    op = recurrence("gla")
    x = draw(op)
    with pytest.raises(UsageError, match="'g' is missing"):
        run(op, {n: v for n, v in x.items() if n != "g"})
    with pytest.raises(UsageError, match="'g' has 3 dimensions, needs 4"):
        run(op, {**x, "g": x["g"][..., 0]})
    with pytest.raises(UsageError, match="Axis 'K' has size 2 and, in 'g', 1"):
        run(op, {**x, "g": x["g"][..., :1]})
    with pytest.raises(UsageError, match=r"'v' has \[B, T\] = \[2, 4\], 'q' has \[2, 5\]"):
        run(op, {**x, "v": x["v"][:, 1:]})


def test_a_branch_that_lacks_an_axis_is_constant_along_it():
    op = from_text("""
        operator: branch
        axes: {D: 3}
        inputs: {x: [], z: {axes: [D], optional: true}}
        state: {h: []}
        update: ["h = h + sum((x * z if z else x), D)"]
        output: {o: h}
        """)
    x = torch.ones(1, 1)
    close(run(op, {"x": x, "z": torch.ones(1, 1, 5)})[0]["o"], torch.full((1, 1), 5.0))
    close(run(op, {"x": x})[0]["o"], torch.full((1, 1), 3.0))
