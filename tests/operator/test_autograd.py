"""Results and gradients of generated operators on the CPU, against float64."""

import pytest
import torch
from torch.utils.checkpoint import checkpoint

import seqgen
from tests.operator.operators import SPECS, assert_close, assert_equal, gradients, make


@pytest.mark.parametrize("options", [True, False])
def test_float32_against_the_float64_reference(module, options):
    case = make(module, options=options, states=options)
    found, exact = case(), case.to(torch.float64).reference()
    assert all(r.dtype == torch.float32 for r in found)
    assert_close(found, exact)
    leaves = case.to(torch.float64)
    assert_close(
        gradients(case(), case.tensors), gradients(leaves.reference(), leaves.tensors), 1e-5
    )


def test_float64_is_exact_on_the_cpu(module):
    case = make(module, dtype=torch.float64)
    assert all(result.dtype == torch.float64 for result in case())
    assert_close(case(), case.reference(), 1e-14)
    found = gradients(case(), case.tensors)
    assert_close(found, gradients(case.reference(), case.tensors), 1e-13)


def test_gradients_by_finite_differences(load):
    case = make(load("gated_delta_rule"), dtype=torch.float64, batch=1, length=3)

    def function(*tensors):
        leaves = iter(tensors)
        return tuple(case.map(lambda _: next(leaves))())

    assert torch.autograd.gradcheck(function, tuple(case.tensors), nondet_tol=0.0)


def test_gradients_have_the_dtype_of_the_argument(module):
    case = make(module, dtype=torch.bfloat16)
    results = case()
    outputs = len(module.SPEC["outputs"])
    assert all(r.dtype == torch.bfloat16 for r in results[:outputs])
    assert all(r.dtype == torch.float32 for r in results[outputs:])
    for tensor, gradient in zip(case.tensors, gradients(results, case.tensors), strict=True):
        assert gradient.dtype == tensor.dtype and gradient.shape == tensor.shape


def test_only_some_results_have_a_gradient(module):
    case = make(module)
    for index in range(len(module.SPEC["outputs"])):
        found = gradients([case()[index]], case.tensors)
        assert_close(found, gradients([case.reference()[index]], case.tensors))


def test_a_call_without_gradients_records_nothing(module):
    case = make(module, grad=False)
    assert all(not result.requires_grad for result in case())


def test_second_derivatives_are_refused(module):
    case = make(module)
    loss = sum(result.square().sum() for result in case())
    first = torch.autograd.grad(loss, case.tensors, create_graph=True, allow_unused=True)
    message = f"{case.name}: there are no second derivatives; the backward pass has none."
    with pytest.raises(RuntimeError) as caught:
        torch.autograd.grad(sum(g.sum() for g in first if g is not None), case.tensors)
    assert str(caught.value) == message


def test_activation_checkpointing(module):
    case = make(module)
    leaves = case.tensors

    def run(*tensors):
        values = iter(tensors)
        return tuple(case.map(lambda _: next(values))())

    results = checkpoint(run, *leaves, use_reentrant=False)
    assert_equal(results, case())
    assert_equal(gradients(results, leaves), gradients(case(), leaves))


def test_saved_tensors_are_the_inputs_alone(module):
    """Nothing per token is kept for the backward pass, beyond the arguments."""
    case = make(module)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        case()
    known = {t.data_ptr() for t in case.tensors}
    assert {t.data_ptr() for t in saved} <= known


@pytest.mark.parametrize("enabled", [True, False])
def test_autocast_casts_inputs_without_a_declared_dtype(module, enabled):
    case = make(module)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
        results = case()
        found = gradients(results, case.tensors)
    low = case
    if enabled:
        spec = module.SPEC["arguments"]
        free = {n for n, t in spec.items() if t["kind"] == "input" and t["dtype"] is None}
        cast = {n: t.to(torch.bfloat16) if n in free else t for n, t in case.arguments.items()}
        low = type(case)(module, cast, case.states)
    assert_equal(results, low())
    assert_equal(found, gradients(low(), case.tensors))
    assert all(g.dtype == torch.float32 for g in found)


def test_autocast_takes_mixed_dtypes(load):
    module = load("gated_delta_rule")
    case = make(module)
    mixed = dict(case.arguments, k=case.arguments["k"].half(), v=case.arguments["v"].bfloat16())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert type(case)(module, mixed, case.states)()[0].dtype == torch.bfloat16


def test_autocast_leaves_float64_alone(module):
    case = make(module, dtype=torch.float64)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert case()[0].dtype == torch.float64


def test_non_contiguous_arguments(module):
    case = make(module, grad=False)

    def strided(tensor):
        if tensor.dim() < 2:
            return tensor
        turned = tensor.transpose(0, -1).contiguous().transpose(0, -1)
        return turned.requires_grad_()

    dense = case.map(lambda t: t.clone().requires_grad_(t.dim() > 1))
    other = case.map(strided)
    assert not all(t.is_contiguous() for t in other.tensors)
    assert_equal(other(), dense())
    assert_equal(gradients(other(), other.tensors), gradients(dense(), dense.tensors))


def test_equal_bits_in_every_run(module):
    case = make(module)
    assert_equal(case(), case())
    assert_equal(gradients(case(), case.tensors), gradients(case(), case.tensors))


def test_final_state_only_where_asked(module):
    case = make(module)
    function = getattr(module, case.name)
    assert function(*case.required, **case.optional)[-1] is None
    final = function(*case.required, **case.optional, output_final_state=True)[-1]
    if len(case.states) > 1:
        assert type(final).__name__ == "".join(p.title() for p in case.name.split("_")) + "State"
        assert final._fields == tuple(module.SPEC["states"])
    else:
        assert isinstance(final, torch.Tensor)


def test_absent_states_start_at_their_initial_value(module):
    case = make(module, states=False)
    zeros = tuple(torch.zeros_like(s) for s in make(module).states)
    assert_equal(case(), type(case)(module, case.arguments, zeros)())


def test_single_entries_of_the_state_may_be_absent(load):
    module = load("two_memories")
    case = make(module)
    given = module.TwoMemoriesState(n=case.states[1])
    zeros = [torch.zeros_like(s) for s in case.states]
    explicit = type(case)(module, case.arguments, (zeros[0], given.n, *zeros[2:]))
    assert_equal(type(case)(module, case.arguments, given)(), explicit())


def test_in_a_module_with_parameters(load):
    module = load("mamba2_ssd")
    case = make(module)

    class Layer(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.A = torch.nn.Parameter(case.arguments["A"].detach().clone())

        def forward(self, **inputs):
            return type(case)(module, dict(case.arguments, A=self.A, **inputs), case.states)()[0]

    layer = Layer()
    layer().sum().backward()
    (wanted,) = torch.autograd.grad(case()[0].sum(), [case.arguments["A"]])
    assert torch.equal(layer.A.grad, wanted)


def test_two_gpus_in_one_process_do_not_collide(load):
    one, other = load("simple_gla"), seqgen.load_operator(SPECS["simple_gla"], gpu="a100")
    assert one is not other and one._NAMESPACE != other._NAMESPACE
    case = make(one)
    assert_equal(case(), type(case)(other, case.arguments, case.states)())
    assert one._forward_op._opoverload is not other._forward_op._opoverload


DECLARED = """\
operator: all_float32
inputs: {x: {axes: [D], dtype: float32}, g: {axes: [D], dtype: float32, range: [-.inf, 0]}}
state:  {h: [D]}
update: ["h = exp(g) * h + x"]
output: {o: {value: h, axes: [D], dtype: float32}}
"""


def test_autocast_where_every_input_is_declared(tmp_path):
    (tmp_path / "all_float32.yaml").write_text(DECLARED)
    module = seqgen.load_operator(tmp_path / "all_float32.yaml", gpu="h100")
    case = make(module)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert case()[0].dtype == torch.float32
    low = type(case)(module, {n: t.bfloat16() for n, t in case.arguments.items()}, case.states)
    assert low()[0].dtype == torch.float32
    mixed = dict(case.arguments, g=case.arguments["g"].bfloat16())
    with pytest.raises(TypeError) as caught:
        type(case)(module, mixed, case.states)()
    assert str(caught.value) == "all_float32: 'g' has dtype bfloat16, expected float32."
