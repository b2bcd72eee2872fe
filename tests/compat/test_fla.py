"""FLA's functions on CPU tensors: values, states and gradients against loops; what is refused."""

import inspect

import pytest
import torch
import torch.nn.functional as F

from seqgen.build import analyse_spec
from seqgen.compat import fla
from seqgen.errors import UsageError
from seqgen.ir.printer import spec_hash
from seqgen.spec.loader import load_spec
from tests.compat import loops
from tests.test_imports import ROOT

B, T, H, HV, K, V = 2, 7, 2, 4, 4, 3


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compat")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SEQGEN_CACHE", str(folder / "cache"))
        patch.setenv("SEQGEN_TUNING_DB", str(folder / "tuning.sqlite"))
        yield


@pytest.fixture
def draw():
    """Random float64 leaves; ``gate`` and ``rate`` are log-decays and numbers in 0 ... 1."""
    generator = torch.Generator().manual_seed(0)

    def make(*axes, kind="plain"):
        x = torch.randn(B, T, *axes, generator=generator, dtype=torch.float64)
        x = {"plain": x, "gate": F.logsigmoid(x), "rate": x.sigmoid()}[kind]
        return x.requires_grad_()

    return make


@pytest.fixture
def qkv(draw):
    return draw(H, K), draw(H, K), draw(H, V)


def state_like(*axes):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(B, *axes, generator=generator, dtype=torch.float64).requires_grad_()


def agree(found, expected, *leaves):
    """Outputs, final states and the gradients of a scalar of both."""
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    scalar = [x.sin().sum() for pair in (found, expected) for x in pair]
    grads = [
        torch.autograd.grad(scalar[i] + scalar[i + 1], leaves, retain_graph=True) for i in (0, 2)
    ]
    torch.testing.assert_close(grads[0], grads[1], rtol=1e-8, atol=1e-8)


LAST = {"output_final_state": True}


@pytest.mark.parametrize("scale", [None, 1.0, 0.3, -1e-5])
def test_gla(qkv, draw, scale):
    g, state = draw(H, K, kind="gate"), state_like(H, K, V)
    found = fla.chunk_gla(*qkv, g, scale, state, True)
    expected = loops.linear(*qkv, g.exp()[..., None], state, scale=scale)
    agree(found, expected, *qkv, g, state)


def test_gla_of_no_state(qkv, draw):
    o, final = fla.chunk_gla(*qkv, draw(H, K, kind="gate"))
    assert o.shape == (B, T, H, V) and final is None


@pytest.mark.parametrize("reverse", [False, True])
def test_recurrent_gla_decays_keys_and_values(qkv, draw, reverse):
    gk, gv = draw(H, K, kind="gate"), draw(H, V, kind="gate")
    decay = gk.exp()[..., None] * gv.exp()[..., None, :]
    for arguments, factor in (
        ((gk, gv), decay),
        ((None, gv), gv.exp()[..., None, :]),
        ((None, None), None),
    ):
        found = fla.fused_recurrent_gla(*qkv, *arguments, reverse=reverse, **LAST)
        agree(found, loops.linear(*qkv, factor, reverse=reverse), *qkv)


@pytest.mark.parametrize("names", ["g", "g_gamma", "g g_gamma", ""])
def test_simple_gla(qkv, draw, names):
    gates = {"g": draw(H, kind="gate"), "g_gamma": draw(H, kind="gate").detach()[0, 0]}
    chosen = {name: gates[name] for name in names.split()}
    total = sum(chosen.values(), torch.zeros(B, T, H, dtype=torch.float64))
    state = state_like(H, K, V)
    expected = loops.linear(*qkv, total.exp()[..., None, None], state)
    found = fla.chunk_simple_gla(*qkv, **chosen, initial_state=state, **LAST)
    agree(found, expected, *qkv, state)
    o, final = fla.fused_recurrent_simple_gla(
        *qkv, **chosen, initial_state=state.transpose(2, 3), state_v_first=True, **LAST
    )
    agree((o, final.transpose(2, 3)), expected, *qkv, state)


def test_linear_attention(qkv):
    q, k, v = qkv[0].exp(), qkv[1].exp(), qkv[2]
    agree(fla.chunk_linear_attn(q, k, v, normalize=False, **LAST), loops.linear(q, k, v), *qkv)
    found = fla.fused_recurrent_linear_attn(q, k, v, reverse=True, **LAST)
    agree(found, loops.linear(q, k, v, reverse=True), *qkv)


@pytest.mark.parametrize("scale", [None, 2.0])
@pytest.mark.parametrize("reverse", [False, True])
def test_normalised_linear_attention(qkv, scale, reverse):
    q, k, v = qkv[0].exp(), qkv[1].exp(), qkv[2]
    state, total = state_like(H, K, V), state_like(1, H, K).exp()
    o, expected_s = loops.linear(q, k, v, None, state, reverse)
    ordered = k.flip(1) if reverse else k
    sums = total + ordered.cumsum(1)
    expected_z = sums[:, -1:]
    sums = sums.flip(1) if reverse else sums
    expected = o / ((q * sums).sum(-1, keepdim=True) * K**-0.5 + 1e-10)
    options = {"scale": scale, "initial_state": (state, total), "normalize": True, **LAST}
    if reverse:
        found, (s, z) = fla.fused_recurrent_linear_attn(q, k, v, reverse=True, **options)
    else:
        found, (s, z) = fla.chunk_linear_attn(q, k, v, **options)
    agree((found, s), (expected, expected_s), *qkv, state)
    torch.testing.assert_close(z, expected_z)
    alone = fla.chunk_linear_attn(q, k, v, initial_state=state)
    both = fla.chunk_linear_attn(q, k, v, initial_state=(state, None))
    torch.testing.assert_close(alone, both)
    assert alone[1] is None


def test_retention_and_lightning(qkv):
    heads = torch.arange(H, dtype=torch.float64)[:, None, None]
    decay = (1 - 2 ** (-5 - heads)).expand(B, T, H, 1, 1)
    agree(fla.chunk_retention(*qkv, **LAST), loops.linear(*qkv, decay), *qkv)
    found = fla.fused_recurrent_retention(*qkv, reverse=True, **LAST)
    agree(found, loops.linear(*qkv, decay, reverse=True), *qkv)
    decay = torch.exp(-8 / H * (1 - 3 / 12) * heads).expand(B, T, H, 1, 1)
    agree(fla.chunk_lightning_attn(*qkv, 3, 12, **LAST), loops.linear(*qkv, decay), *qkv)
    found = fla.fused_recurrent_lightning_attn(*qkv, 3, 12, reverse=True, **LAST)
    agree(found, loops.linear(*qkv, decay, reverse=True), *qkv)


@pytest.mark.parametrize("reverse", [False, True])
def test_rwkv6(qkv, draw, reverse):
    w, u, state = draw(H, K, kind="gate"), draw(H, K).detach()[0, 0], state_like(H, K, V)
    u.requires_grad_()
    function = fla.fused_recurrent_rwkv6 if reverse else fla.chunk_rwkv6
    options = {"reverse": True} if reverse else {}
    found = function(*qkv, w, u, initial_state=state, **LAST, **options)
    agree(found, loops.rwkv6(*qkv, w, u, state, reverse), *qkv, w, u, state)


def test_hgrn(draw):
    x, g = draw(5), draw(5, kind="gate")
    expected = loops.loop(lambda h, x, g: (g.exp() * h + x,) * 2, torch.zeros_like(x[:, 0]), x, g)
    agree(fla.chunk_hgrn(x, g, None, True), expected, x, g)
    agree(fla.fused_recurrent_hgrn(x, g, None, True), expected, x, g)


@pytest.mark.parametrize("scale", [None, 0.7])
@pytest.mark.parametrize("normalise", [False, True])
def test_delta_rule(qkv, draw, normalise, scale):
    q, k, v = qkv
    if normalise:
        q, k = loops.unit(q), loops.unit(k)
    options = {"use_qk_l2norm_in_kernel": normalise, "scale": scale, **LAST}
    beta, wide = draw(H, kind="rate"), draw(H, V, kind="rate")
    expected = loops.delta(q, k, v, beta[..., None], scale=scale)
    agree(fla.chunk_delta_rule(*qkv, beta, **options), expected, *qkv, beta)
    for found, strength in (
        (fla.fused_recurrent_delta_rule(*qkv, **options), torch.ones_like(v)),
        (fla.fused_recurrent_delta_rule(*qkv, wide, **options), wide),
    ):
        agree(found, loops.delta(q, k, v, strength, scale=scale), *qkv)


@pytest.mark.parametrize(
    "flags", ["", "norm", "sigmoid", "sigmoid twice", "gate", "gate bias norm"]
)
def test_gated_delta_rule(draw, flags):
    q, k, v, g, b = draw(H, K), draw(H, K), draw(HV, V), draw(HV), draw(HV, kind="rate")
    a_log, bias = (x.detach()[0, 0].requires_grad_() for x in (draw(HV), draw(HV)))
    state, options = state_like(HV, K, V), {}
    gate, beta = F.logsigmoid(g), b
    given_q, given_k, given_g = q, k, gate
    if "norm" in flags:
        options["use_qk_l2norm_in_kernel"] = True
        q, k = loops.unit(q), loops.unit(k)
    if "sigmoid" in flags:
        options |= {"use_beta_sigmoid_in_kernel": True, "allow_neg_eigval": "twice" in flags}
        beta = (2 if "twice" in flags else 1) * b.sigmoid()
    if "gate" in flags:
        options |= {"use_gate_in_kernel": True, "A_log": a_log}
        options |= {"dt_bias": bias} if "bias" in flags else {}
        gate = -a_log.exp() * F.softplus(g + bias if "bias" in flags else g)
        given_g = g
    expected = loops.delta(q, k, v, beta[..., None], gate.exp()[..., None, None], state=state)
    arguments = {"g": given_g, "beta": b, "initial_state": state, **options, **LAST}
    for function in (fla.chunk_gdn, fla.fused_recurrent_gdn):
        found = function(given_q, given_k, v, **arguments)
        agree(found, expected, given_q, given_k, v, g, b, state)


def test_recurrent_gated_delta_rule_takes_any_decays(draw):
    q, k, v = draw(H, K), draw(H, K), draw(HV, V)
    gk, gv = draw(HV, K, kind="gate"), draw(HV, V, kind="gate")
    beta = torch.ones(B, T, HV, 1, dtype=torch.float64)
    found = fla.fused_recurrent_gated_delta_rule(q, k, v, gk=gk, gv=gv, **LAST)
    decay = gk.exp()[..., None] * gv.exp()[..., None, :]
    agree(found, loops.delta(q, k, v, beta, decay), q, k, v, gk, gv)


@pytest.mark.parametrize(
    "flags", ["", "norm", "twice", "gate", "gate bias", "bound", "bound rate bias"]
)
def test_kda(draw, flags):
    q, k, v, g, b = draw(H, K), draw(H, K), draw(HV, V), draw(HV, K), draw(HV, kind="rate")
    a_log, bias = (x.detach()[0, 0] for x in (draw(HV), draw(HV * K)))
    raw = g + bias.view(HV, K) if "bias" in flags else g
    options = {"dt_bias": bias} if "bias" in flags else {}
    gate, beta = F.logsigmoid(g), b
    given_q, given_k, given_g = q, k, gate
    if "norm" in flags:
        options["use_qk_l2norm_in_kernel"] = True
        q, k = loops.unit(q), loops.unit(k)
    if "twice" in flags:
        options |= {"use_beta_sigmoid_in_kernel": True, "allow_neg_eigval": True}
        beta = 2 * b.sigmoid()
    if "gate" in flags:
        options |= {"use_gate_in_kernel": True, "A_log": a_log}
        gate, given_g = -a_log.exp()[:, None] * F.softplus(raw), g
    if "bound" in flags:
        options |= {"use_gate_in_kernel": True, "lower_bound": -5.0, "safe_gate": True}
        rate = a_log.exp()[:, None] if "rate" in flags else 1
        options |= {"A_log": a_log} if "rate" in flags else {}
        gate, given_g = -5 * (rate * raw).sigmoid(), g
    expected = loops.delta(q, k, v, beta[..., None], gate.exp()[..., None])
    agree(
        fla.chunk_kda(given_q, given_k, v, given_g, b, **options, **LAST),
        expected, given_q, given_k, v, g, b,
    )  # fmt: skip
    options.pop("safe_gate", None)
    o, final = fla.fused_recurrent_kda(
        given_q, given_k, v, given_g, b, state_v_first=True, **options, **LAST
    )
    torch.testing.assert_close((o, final.transpose(2, 3)), expected)


@pytest.mark.parametrize("normalise", [False, True])
def test_comba(qkv, draw, normalise):
    (q, k, v), p = qkv, draw(H, K)
    g, beta = draw(H, kind="gate"), draw(H, kind="rate")
    unit = loops.unit if normalise else lambda x: x
    decay = g.exp()[..., None, None]
    expected = loops.delta(unit(q), unit(k), v, beta[..., None], decay, unit(p))
    options = {"use_qk_l2norm_in_kernel": normalise, **LAST}
    agree(fla.chunk_comba(q, k, v, p, g, beta, **options), expected, *qkv, p, g, beta)
    agree(fla.fused_recurrent_comba(q, k, p, v, g, beta, **options), expected, *qkv, p, g, beta)
    expected = loops.delta(unit(q), unit(k), v, torch.ones_like(v), decay)
    agree(fla.chunk_comba(q, k, v, None, g, **options), expected, *qkv, g)


def test_low_rank_rules(qkv, draw):
    (q, k, v), a, b, w = qkv, -draw(H, K) / 2, draw(H, K, kind="rate"), draw(H, K, kind="gate")
    state = state_like(H, K, V)
    leaves = (*qkv, a, b, w, state)
    options = {"initial_state": state, **LAST}
    expected = loops.low_rank(q, k, v, a, b, w.exp(), state)
    agree(fla.chunk_dplr_delta_rule(q, k, v, a, b, w, **options), expected, *leaves)
    agree(fla.fused_recurrent_rwkv7(q, w, k, v, a, b, initial_state=state), expected, *leaves)
    expected = loops.low_rank(q, k, v, a, b, w.exp(), state, scale=1)
    agree(fla.chunk_rwkv7(q, w, k, v, a, b, **options), expected, *leaves)
    found = fla.fused_recurrent_dplr_delta_rule(q, k, v, a, b, w, reverse=True, **options)
    expected = loops.low_rank(q, k, v, a, b, w.exp(), state, reverse=True)
    agree(found, expected, *leaves)
    expected = loops.low_rank(q, k, v, a, b, None, state)
    for function in (fla.chunk_iplr_delta_rule, fla.fused_recurrent_iplr_delta_rule):
        agree(function(q, k, v, a, b, **options), expected, *qkv, a, b, state)


def test_rwkv7_from_its_parts(qkv, draw):
    (r, k, v), w, a = qkv, draw(H, K, kind="gate"), draw(H, K, kind="rate")
    kk = loops.unit(draw(H, K))
    expected = loops.low_rank(r, k, v, -kk, kk * a, w.exp(), scale=1)
    agree(fla.fused_mul_recurrent_rwkv7(r, w, k, v, kk, a, **LAST), expected, *qkv, w, a)


def test_packed_sequences(draw):
    borders = torch.tensor([0, 3, 3, 7])
    q, k, v = (x.detach()[:1] for x in (draw(H, K), draw(H, K), draw(H, V)))
    g, beta = (draw(H, kind=kind).detach()[:1] for kind in ("gate", "rate"))
    state = torch.randn(3, H, K, V, dtype=torch.float64)
    packed = {"cu_seqlens": borders, "cu_seqlens_cpu": borders, "initial_state": state, **LAST}
    o, final = fla.chunk_gated_delta_rule(q, k, v, g, beta, **packed)
    for i, (start, stop) in enumerate([(0, 3), (3, 7)]):
        one = [x[:, start:stop] for x in (q, k, v, beta[..., None], g.exp()[..., None, None])]
        n = 2 * i
        expected, last = loops.delta(*one, state=state[n : n + 1])
        torch.testing.assert_close(o[:, start:stop], expected)
        torch.testing.assert_close(final[n : n + 1], last)
    torch.testing.assert_close(final[1], state[1])


def test_dtypes_as_models_have_them(qkv, draw):
    """Queries in bfloat16, gates in float32, ``beta`` in either, states in 16 bits."""
    q, k, v = (x.detach().bfloat16() for x in qkv)
    g, beta = (draw(H, kind=kind).detach().float() for kind in ("gate", "rate"))
    state = state_like(H, K, V).detach().bfloat16()
    expected = loops.delta(
        *(x.float() for x in (q, k, v, beta[..., None], g.exp()[..., None, None])),
        state=state.float(),
    )
    for b in (beta, beta.bfloat16()):
        o, final = fla.chunk_gated_delta_rule(q, k, v, g, b, None, state, True)
        assert o.dtype == torch.bfloat16 and final.dtype == torch.float32
        close = 0.01 if b.dtype == torch.float32 else 0.03
        torch.testing.assert_close(o.float(), expected[0], rtol=close, atol=close)
    a = k.float()
    assert fla.chunk_rwkv7(q, a.log_softmax(-1), k, v, a, a)[0].dtype == torch.bfloat16


GENERAL = ("simple_gla", "linear_attention", "gla", "retnet", "rwkv6", "rwkv7", "hgrn")
DELTA = ("delta_rule", "gated_delta_rule", "comba", "dplr", "iplr")


def test_default_forms_are_the_examples(qkv, draw, monkeypatch):
    """So that they take the tuned configurations that ship for the examples."""
    seen = []
    nothing = lambda **_: (None, None)
    monkeypatch.setattr("seqgen.compat.fla.call.operator", lambda f: seen.append(f) or nothing)
    head, channel = draw(H), draw(H, K)
    fla.chunk_simple_gla(*qkv, head, scale=K**-0.5)
    fla.chunk_linear_attn(*qkv, normalize=False)
    fla.chunk_gla(*qkv, channel)
    fla.chunk_retention(*qkv)
    fla.chunk_rwkv6(*qkv, channel, channel[0, 0])
    fla.fused_mul_recurrent_rwkv7(qkv[0], channel, qkv[1], qkv[2], channel, channel)
    fla.chunk_hgrn(head, head)
    fla.chunk_delta_rule(*qkv, head, use_qk_l2norm_in_kernel=True)
    fla.chunk_gated_delta_rule(*qkv, head, head, use_qk_l2norm_in_kernel=True)
    fla.chunk_comba(*qkv, channel, head, head, use_qk_l2norm_in_kernel=True)
    fla.chunk_dplr_delta_rule(*qkv, channel, channel, channel)
    fla.chunk_iplr_delta_rule(*qkv, channel, channel)
    assert [f.name for f in seen] == [*GENERAL, *DELTA]
    for found in seen:
        example, _ = analyse_spec(load_spec(ROOT / "examples" / f"{found.name}.yaml"))
        assert spec_hash(analyse_spec(found.spec())[0]) == spec_hash(example), found.name


def test_compiles_without_a_break(qkv, draw):
    g, beta = draw(HV, kind="gate"), draw(HV, kind="rate")
    v = draw(HV, V)

    def layer(q, k, v, g, beta):
        options = {"use_qk_l2norm_in_kernel": True, "scale": 0.7, **LAST}
        o, final = fla.chunk_gated_delta_rule(2 * q, k, v, g, beta, **options)
        return o + 1, final

    arguments = (*qkv[:2], v, g, beta)
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    agree(compiled(*arguments), layer(*arguments), *arguments)


def refusal(function, *arguments, **options):
    with pytest.raises(UsageError) as caught:
        function(*arguments, **options)
    return str(caught.value)


def test_refusals(qkv):
    """Before any work: the other arguments are not even tensors."""
    five, x = (None,) * 5, torch.ones(())
    assert refusal(fla.chunk_simple_gla, *qkv, head_first=True) == (
        "chunk_simple_gla: 'head_first' is not supported. Inputs must be in [B, T, H, ...] format."
    )
    assert refusal(fla.chunk_delta_rule, *five[:4], chunk_sise=64) == (
        "chunk_delta_rule: unknown argument 'chunk_sise'. Did you mean 'chunk_size'?"
    )
    assert refusal(fla.fused_recurrent_kda, *five, ssm_state_indices=x) == (
        "fused_recurrent_kda: unknown argument 'ssm_state_indices'."
    )
    for function, count, name in (
        (fla.chunk_gated_delta_rule, 5, "chunk_indices"),
        (fla.chunk_gated_delta_rule, 5, "cp_context"),
        (fla.chunk_kda, 5, "cp_context"),
        (fla.chunk_kda, 5, "return_intermediate_states"),
        (fla.chunk_rwkv7, 6, "cp_context"),
        (fla.chunk_dplr_delta_rule, 6, "cp_context"),
    ):
        message = refusal(function, *(None,) * count, **{name: x})
        assert message == f"{function.__name__}: '{name}' is not supported by seqgen."
    for scale in (x, "1", True, float("nan")):
        assert refusal(fla.chunk_gla, *five[:4], scale) == (
            f"chunk_gla: 'scale' must be a finite number or None, got {scale!r}."
        )


def test_refusals_of_flags_without_their_tensors(qkv, draw):
    arguments = (*qkv, draw(H), draw(H))
    assert refusal(fla.chunk_gdn, *arguments, use_gate_in_kernel=True) == (
        "chunk_gated_delta_rule: 'use_gate_in_kernel' needs 'A_log'."
    )
    assert refusal(fla.chunk_kda, *arguments, use_gate_in_kernel=True) == (
        "chunk_kda: 'use_gate_in_kernel' needs 'A_log'."
    )
    for function in (fla.chunk_kda, fla.chunk_gated_delta_rule):
        assert refusal(function, *arguments, allow_neg_eigval=True) == (
            f"{function.__name__}: 'allow_neg_eigval' needs 'use_beta_sigmoid_in_kernel'."
        )


def test_shapes_and_dtypes_are_refused_by_the_operator(qkv, draw):
    q, k, v = qkv
    with pytest.raises(ValueError, match="gla: "):
        fla.chunk_gla(q, k[:, :-1], v, draw(H, K))
    with pytest.raises(TypeError, match="gla: "):
        fla.chunk_gla(q, k.float(), v, draw(H, K))
    with pytest.raises(ValueError, match="cu_seqlens"):
        fla.chunk_gla(q, k, v, draw(H, K), cu_seqlens=torch.tensor([0, T]))


def test_hints_are_accepted(qkv, draw):
    g, beta = draw(H, kind="gate"), draw(H, kind="rate")
    plain = fla.chunk_gated_delta_rule(*qkv, g, beta)
    torch.testing.assert_close(
        fla.chunk_gated_delta_rule(*qkv, g, beta, chunk_size=32, head_first=False), plain
    )


def test_every_function_is_documented():
    page = (ROOT / "docs" / "compat-fla.md").read_text(encoding="utf-8")
    for name in fla.__all__:
        assert f"`{name}`" in page, name
        assert inspect.getdoc(getattr(fla, name))
