"""Expected results: the reference table of operators; normal forms are checked by numbers too."""

from dataclasses import replace

import pytest
import torch
from operator_table import GROUPED, READ, SPECS, from_text, qkv, recurrence

from seqgen.errors import SpecError
from seqgen.ir.printer import show
from seqgen.passes.lower import lower
from seqgen.passes.simplify import in_order, simplify
from seqgen.passes.structure import analyse
from seqgen.reference.interpreter import Evaluator
from seqgen.spec.loader import parse_spec

# operator -> family, then "states family [decay [key -> value axes]]" per component
EXPECTED = {
    "linear_attention": ("linear", "S linear none K V"),
    "normalised": ("linear", "S linear none K V; z scan none K -"),
    "retnet": ("linear", "S linear head constant K V"),
    "lightning": ("linear", "S linear head constant K V"),
    "simple_gla": ("linear", "S linear scalar K V"),
    "gla": ("linear", "S linear key K V"),
    "value_decay": ("linear", "S linear value K V"),
    "key_value_decay": ("linear", "S linear key+value K V"),
    "rwkv6": ("linear", "S linear key K V"),
    "hgrn": ("scan", "h scan"),
    "hgrn2": ("linear", "S linear key K V"),
    "mamba2": ("linear", "h linear scalar N P"),
    "mamba1": ("scan", "h scan"),
    "deltanet": ("delta", "S delta none K V"),
    "gated_deltanet": ("delta", "S delta scalar K V"),
    "gated_deltanet_gates": ("delta", "S delta scalar K V"),
    "kda": ("delta", "S delta key K V"),
    "kda_one_line": ("delta", "S delta key K V"),
    "gdn2": ("delta", "S delta none K V"),
    "comba": ("delta", "S delta scalar K V"),
    "gated_oja": ("delta", "S delta key V K"),
    "delta_per_value": ("recurrent", "S recurrent"),
    "delta_product": ("delta", "S delta scalar K V"),
    "dplr": ("dplr", "S dplr key K V"),
    "iplr": ("dplr", "S dplr none K V"),
    "rwkv7": ("dplr", "S dplr key K V"),
    "mamba3": ("linear", "th scan; S linear scalar N P"),
    "mlstm": ("linear", "m scan; C linear scalar K V; n scan scalar K -"),
    "gsa": ("linear", "Hk linear value K M; Hv linear key M V"),
    "abc": ("linear", "z scan; Hk linear value K M; Hv linear key M V"),
    "preconditioned_gdn": ("delta", "A scan; S delta scalar K V"),
    "slstm": ("scan", "m scan; c scan; n scan"),
    "rwkv4": ("scan", "m scan; a scan; b scan"),
    "s4d": ("scan", "hr,hi scan"),
    "ttt": ("recurrent", "W,b recurrent"),
    "ttt_minibatch": ("recurrent", "W,b,W0,b0 recurrent"),
    "titans": ("recurrent", "M,S recurrent"),
    "momentum": ("scan", "M,S scan"),
    "second_order": ("linear", "S linear none K,J V"),
}
# x, r, y and D' of the delta family
DELTA = {
    "deltanet": ("beta * k", "k", "v", "D"),
    "gated_deltanet": ("beta * k", "k", "v", "D"),
    "kda": ("beta * k", "k", "v", "D"),
    "kda_one_line": ("beta * k", "k", "v", "D"),
    "gdn2": ("k", "b * k", "w * v", "D"),
    "comba": ("k * beta", "p", "v", "D"),
    "gated_oja": ("v * beta", "v", "k", "D"),
    "preconditioned_gdn": ("beta * kp", "k", "v", "D"),
}
SIZES = {"H": 2, "K": 4, "V": 3, "HV": 4, "M": 5, "D": 4, "G": 2, "N": 4, "P": 3, "R": 2, "HQ": 4}


def summary(component):
    text = f"{','.join(component.states)} {component.family}"
    if component.form is not None:
        key, value = component.form.key_axes, component.form.value_axes
        text += f" {component.decay} {','.join(key)} {','.join(value) or '-'}"
    return text


def test_the_table_is_complete():
    assert set(EXPECTED) == set(SPECS)


@pytest.mark.parametrize("name", EXPECTED)
def test_family_decay_and_axes(name):
    structure = analyse(recurrence(name))
    family, components = EXPECTED[name]
    assert structure.family == family
    assert "; ".join(summary(c) for c in structure.components) == components


@pytest.mark.parametrize("name", DELTA)
def test_delta_roles(name):
    step = analyse(recurrence(name)).component("S").step
    delta = step.delta
    assert (show(delta.x), show(delta.r), show(delta.y), step.inner) == DELTA[name]


def roles(structure):
    (component,) = structure.components
    decay = component.log_decay
    names = (component.query, component.key, component.value)
    return (*(show(e) for e in names), None if decay is None else show(decay))


@pytest.mark.parametrize(
    ("name", "expected", "output"),
    [
        ("linear_attention", ("q", "k", "v", None), "read_o"),
        ("simple_gla", ("q", "k", "v", "g"), "read_o"),
        ("retnet", ("q", "k", "v", "g"), "read_o"),
        ("mamba2", ("C", "B", "dt * x", "dt * A"), "(read_y + D * x) * silu(z)"),
        ("rwkv6", ("r", "k", "v", "w"), "K ** (-0.5) * (read_o + v * sum(r * u * k, K))"),
    ],
)
def test_linear_roles_and_epilogue(name, expected, output):
    structure = analyse(recurrence(name))
    assert roles(structure) == expected
    assert show(structure.outputs[0].value) == output


def test_reads_of_the_old_state():
    structure = analyse(recurrence("rwkv6"))
    (read,) = structure.reads
    assert (str(read), read.before) == ("read_o = sum(r * prev(S), K)", True)


def test_dplr_erase_sees_the_state_before_the_decay():
    step = analyse(recurrence("rwkv7")).component("S").step
    (erase,), (write,) = step.erases, step.writes
    assert step.inner == "I"
    assert (show(erase.put), show(erase.row)) == ("-(kk * a)", "kk")
    assert (show(write.key), show(write.value)) == ("k", "v")


def test_oja_reads_the_value_axis():
    component = analyse(recurrence("gated_oja")).component("S")
    assert [component.side(read) for read in component.reads] == ["value"]


def test_micro_steps_decay_once():
    form = analyse(recurrence("delta_product")).component("S").form
    assert [step.decay.kind for step in form.steps] == ["scalar", "none"]
    assert [show(step.delta.r) for step in form.steps] == ["k_m0", "k_m1"]


def test_stages_and_fusing():
    gsa, mlstm = analyse(recurrence("gsa")), analyse(recurrence("mlstm"))
    assert (gsa.stages, [read.stage for read in gsa.reads]) == (2, [0, 1])
    assert mlstm.stages == 1
    assert mlstm.fused == (("C", "n"),)
    assert analyse(recurrence("normalised")).fused == (("S", "z"),)
    assert gsa.fused == ()


def test_the_log_decay_of_mlstm_is_one_expression():
    component = analyse(recurrence("mlstm")).component("C")
    assert show(component.log_decay) == "lf + m_prev - m"
    assert component.uses == ("m",)


@pytest.mark.parametrize(
    ("name", "state", "family", "reason"),
    [
        ("mamba1", "h", "linear", "its log-decay dt * A depends on N and D together"),
        ("hgrn", "h", "linear", "no output contracts an axis of h"),
        ("deltanet", "S", "linear", "the update contracts the state over K"),
        ("dplr", "S", "delta", "it erases with key b and writes with key k"),
        ("delta_per_value", "S", "delta", "the erase factor beta depends on the value axis V"),
        ("titans", "S", "delta", "M and S depend on each other"),
        ("mlstm", "m", "linear", "max(lf + m, i) is not linear in the state"),
        ("ttt", "W", "scan", "the update contracts the state: sum(c * c, V)"),
    ],
)
def test_reasons(name, state, family, reason):
    assert dict(analyse(recurrence(name)).component(state).reasons)[family] == reason


@pytest.mark.parametrize(
    ("output", "shown", "family"),
    [
        ("l2norm(sum(q*S, K), V)", "read_o * rsqrt(sum(read_o * read_o, V) + 1e-06)", "linear"),
        ("sum(q*S, K) * sum(k*S, K)", "read_o * read_o_2", "linear"),
        ("sum(q*tanh(S), K)", "sum(q * tanh(S), K)", "scan"),
    ],
)
def test_nonlinear_outputs_of_linear_reads(output, shown, family):
    structure = analyse(from_text(qkv("op", "S = S + k*v", output={"o": output})))
    assert (structure.family, show(structure.outputs[0].value)) == (family, shown)


def test_all_applicable_families_are_kept():
    found = {name: analyse(recurrence(name)).components[-1].applicable for name in SPECS}
    assert found["gla"] == ("linear", "scan", "recurrent")
    assert found["deltanet"] == ("delta", "dplr", "recurrent")
    assert found["mamba1"] == ("scan", "recurrent")
    assert found["titans"] == ("recurrent",)


@pytest.mark.parametrize(
    ("decay", "declare", "log", "kind"),
    [
        ("sigmoid(f)", "[H]", "logsigmoid(f)", "scalar"),
        ("(1 - sigmoid(f))", "[H]", "logsigmoid(-f)", "scalar"),
        ("exp(f)*exp(-2)", "[H]", "f - 2", "scalar"),
        ("f", "{axes: [H], range: [0, 1]}", "log(max(f, 1.1754943508222875e-38))", "scalar"),
        ("(1 - f)", "{axes: [H], range: [0, 1]}", "log(max(1 - f, 1.1754943508222875e-38))",
         "scalar"),
        ("f", "{axes: [H], range: [0.1, 1]}", "log(f)", "scalar"),
        ("(1 - exp(f))", "{axes: [H], range: [-.inf, 0]}",
         "log(max(1 - exp(f), 1.1754943508222875e-38))", "scalar"),
        ("0.5", "[H]", "-0.6931471805599453", "head constant"),
        ("(exp(f) if f else 1)", "{axes: [H], optional: true}", "(f if f else 0)", "scalar"),
        ("where(f > 3, 0, exp(f))", "[H]", "where(f > 3, -inf, f)", "scalar"),
    ],
)  # fmt: skip
def test_log_forms(decay, declare, log, kind):
    text = qkv("op", f"S = {decay}*S + k*v", {"f": declare})
    component = analyse(from_text(text)).components[0]
    assert (component.decay, show(component.log_decay)) == (kind, log)


def test_a_signed_decay_is_no_linear_family():
    structure = analyse(from_text(qkv("op", "S = f*S + k*v", {"f": "[H]"})))
    assert structure.family == "scan"
    assert structure.slowest is not None
    assert set(structure.slowest.reasons) == {
        (family, "its decay factor f may be negative") for family in ("linear", "delta", "dplr")
    }


@pytest.mark.parametrize(
    ("update", "family"),
    [
        (["S = S + k*v", "S = exp(g)*S"], "linear"),
        (["S = S + k*v + rename(v, V=K)*rename(k, K=V)"], "linear"),
        (["S = S + k*sigmoid(k*v)"], "scan"),
        (["S = k*v"], "scan"),
        (["S = exp(g)*S + k*v", "S = S + beta*k*(v - sum(k*S, K))"], "delta"),
        (["S = S + beta*k*(v - sum(k*S, K))", "S = exp(g)*S"], "delta"),
        (["S = exp(g)*S", "S = S + k*(v - sum(k*prev(S), K))"], "delta"),
        (["S = exp(g)*S - k*sum(k*S, K) + beta*k*v"], "delta"),
        (["w = sum(k*S, K)", "S = exp(g)*S + beta*k*(v - w)"], "delta"),
        (["S = S + k*max(v - sum(k*S, K), 0)"], "recurrent"),
        (["S = exp(v)*S + k*(v - sum(k*S, K))"], "recurrent"),
    ],
)
def test_other_ways_to_write_it(update, family):
    text = qkv(
        "op", update, {"g": "[H]", "beta": "[H]"}, axes={"H": "2", "K": "4", "V": "{same_as: K}"}
    )
    rec = from_text(text)
    assert analyse(rec).family == family
    check_numbers(rec)


def test_query_heads_per_state_head():
    rec = from_text(
        qkv("gqa", "S = S + k*v", {"q": "[HQ, K]"}, axes={"H": "2", "K": "4", "V": "3",
            "HQ": "{groups_of: H, size: 4}"})
    )  # fmt: skip
    structure = analyse(rec)
    assert structure.family == "linear"
    assert structure.reads[0].expand == (("H", "HQ"),)
    check_numbers(rec)


def test_a_contraction_of_an_earlier_matrix_state_is_a_read():
    rec = from_text(
        qkv("two", ["A = A + k*v", "S = S + k*sum(q*A, K)"],
            states={"A": "[H, K, V]", "S": "[H, K, V]"})
    )  # fmt: skip
    structure = analyse(rec)
    assert [c.states for c in structure.components] == [("A",), ("S",)]
    assert show(structure.component("S").value) == "read_S"
    assert structure.family == "linear"
    check_numbers(rec)


@pytest.mark.parametrize("name", SPECS)
def test_the_normal_form_computes_the_recurrence(name):
    check_numbers(recurrence(name))


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("rewrite", [simplify, in_order])
def test_rewriting_the_equations_changes_nothing(name, rewrite):
    rec = recurrence(name)
    rec = replace(
        rec,
        let=tuple(replace(a, value=rewrite(a.value)) for a in rec.let),
        update=tuple(replace(a, value=rewrite(a.value)) for a in rec.update),
        outputs=tuple(replace(o, value=rewrite(o.value)) for o in rec.outputs),
    )
    assert "; ".join(summary(c) for c in analyse(rec).components) == EXPECTED[name][1]
    check_numbers(rec)


def check_numbers(rec):
    """One token in float64: steps give the final state, reads and epilogue the outputs."""
    torch.manual_seed(0)
    sizes = {}
    for axis in rec.axes:
        sizes[axis.name] = sizes[axis.twin] if axis.twin else SIZES.get(axis.name, 3)
        if axis.parent == "G":
            sizes[axis.name] = 4
    like = torch.zeros(1, dtype=torch.float64)
    present = frozenset(t.name for t in rec.tensors)
    evaluate = Evaluator([a.name for a in rec.axes], sizes, like, present)
    values = {}
    for leaf in rec.leaves():
        drawn = torch.rand([sizes[a] for a in leaf.ref_axes], dtype=torch.float64) + 0.1
        values[leaf.name] = evaluate.load(drawn[None], leaf.ref_axes)
    evaluate.run(rec.assignments, values)
    structure = analyse(rec)
    for read in sorted(structure.reads, key=lambda r: r.stage):
        state = rec.state(read.state)
        value = values[state.incoming if read.before else dict(rec.final)[read.state]]
        for parent, child in read.expand:
            value = value.repeat_interleave(sizes[child] // sizes[parent], evaluate.dim[parent])
            value = value.transpose(evaluate.dim[parent], evaluate.dim[child])
        if read.bound:
            product = evaluate(read.weight, values) * value
            values[read.name] = product.sum([evaluate.dim[a] for a in read.bound], keepdim=True)
    for before, after in zip(rec.outputs, structure.outputs, strict=True):
        torch.testing.assert_close(evaluate(after.value, values), evaluate(before.value, values))
    for component in structure.components:
        if component.form is not None:
            check_steps(rec, component, evaluate, values)


def check_steps(rec, component, evaluate, values):
    (name,) = component.states
    key = [evaluate.dim[axis] for axis in component.form.key_axes]
    state = values[rec.state(name).incoming]
    for step in component.form.steps:
        decay = step.decay
        logs = [evaluate(e, values) for e in (decay.log, decay.log_value) if e is not None]
        decayed = state * torch.exp(sum(logs)) if logs else state
        if decay.factor is not None:
            torch.testing.assert_close(decayed, state * evaluate(decay.factor, values))
        seen = decayed if step.inner == "D" else state
        state = decayed
        if step.delta is not None:
            x, r, y = (evaluate(e, values) for e in (step.delta.x, step.delta.r, step.delta.y))
            state = state + x * (y - (r * seen).sum(key, keepdim=True))
            continue
        for erase in step.erases:
            row = (evaluate(erase.row, values) * seen).sum(key, keepdim=True)
            state = state + evaluate(erase.put, values) * row
        for write in step.writes:
            state = state + evaluate(write.key, values) * evaluate(write.value, values)
    expected = values[dict(rec.final)[name]]
    torch.testing.assert_close(state.expand(expected.shape), expected)


def test_require_is_held():
    text = SPECS["gated_deltanet"] + "require: linear\n"
    spec = parse_spec(text, "gdn.yaml")
    with pytest.raises(SpecError) as error:
        analyse(lower(spec), spec.require_span)
    line = text.splitlines().index("require: linear") + 1
    assert str(error.value) == (
        "The spec requires family 'linear', but 'S' is in 'delta'.\n"
        f'  File "gdn.yaml", line {line}\n'
        f"    {line} | require: linear\n"
        f"    {' ' * len(str(line))} |          ^^^^^^ this is 'delta'\n"
        "  Note: Not linear: the update contracts the state over K.\n"
        "  Hint: Change the update, or write 'require: delta'."
    )


def test_require_accepts_the_family_and_faster_ones():
    for family in ("delta", "dplr", "scan"):
        spec = parse_spec(SPECS["deltanet"] + f"require: {family}\n", "spec.yaml")
        analyse(lower(spec), spec.require_span)


def test_text():
    rec = from_text(
        qkv("gdn", ["S = exp(g)*S", "S = S + beta*k*(v - sum(k*S, K))"], output=READ,
            inputs={"q": "[H, K]", "k": "[H, K]", "v": "[HV, V]", "g": "[HV]", "beta": "[HV]"},
            states={"S": "[HV, K, V]"}, axes=GROUPED)
    )  # fmt: skip
    assert str(analyse(rec)) == (
        "gdn: delta\n"
        "\n"
        "S[HV, K, V]: delta (key K; value V; scalar decay)\n"
        "  S = D * S + x * (y - sum(r * D * S, K))\n"
        "    log D    = g  [HV]\n"
        "    x        = beta * k  [HV, K]\n"
        "    r        = k  [HV, K]\n"
        "    y        = v  [HV, V]\n"
        "  read_o = sum(q * S, K)\n"
        "  not linear: the update contracts the state over K\n"
        "\n"
        "output o[HV, V] = read_o"
    )
