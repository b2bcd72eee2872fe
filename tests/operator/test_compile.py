"""Generated operators under torch.compile, opcheck and fake tensors."""

import pytest
import torch
from torch._subclasses import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from tests.operator.operators import NAMES, assert_close, gradients, make

FORWARD = [name for name in NAMES if not name.endswith("_backward")]


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch._dynamo.reset()


@pytest.mark.parametrize("packed", [False, True])
def test_opcheck_of_forward_and_backward(module, packed):
    borders, dtype = ([0, 3, 3, 7], torch.bfloat16) if packed else (None, torch.float32)
    case = make(module, batch=1 if packed else 2, borders=borders, dtype=dtype)
    with_gradients = (*case.arguments.values(), *case.states, case.cu_seqlens)
    torch.library.opcheck(module._forward_op, (*with_gradients, True))
    bare = make(module, options=False, states=False, dtype=dtype)
    torch.library.opcheck(module._forward_op, bare.operands(False))
    cotangents = [torch.ones_like(result) for result in case()]
    torch.library.opcheck(module._backward_op, case.operands(*cotangents))
    only = [torch.ones_like(bare()[0]), *(None for _ in cotangents[1:])]
    torch.library.opcheck(module._backward_op, bare.operands(*only))


@pytest.mark.parametrize("name", FORWARD)
def test_opcheck_of_the_step(load, name):
    module = load(name)
    case = make(module, length=1, grad=False)
    known = module.SPEC["arguments"]
    now = [t[:, 0] if known[n]["kind"] == "input" else t for n, t in case.arguments.items()]
    torch.library.opcheck(module._step_op, (*now, *case.states))


@pytest.mark.parametrize("dynamic", [False, True])
def test_compiled_forward_and_backward(module, dynamic):
    def function(*values):
        tensors = iter(values)
        return case.map(lambda _: next(tensors))()

    compiled = torch.compile(function, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    for length in (4, 6) if dynamic else (4,):
        case = make(module, length=length)
        found = compiled(*case.tensors)
        assert_close(found, case(), 1e-6)
        assert_close(gradients(found, case.tensors), gradients(case(), case.tensors), 1e-6)


def test_compiled_packing_and_autocast(load):
    case = make(load("gated_delta_rule"), batch=1, borders=[0, 2, 7])

    def function():
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return case()

    found = torch.compile(function, fullgraph=True, backend="aot_eager")()
    assert found[0].dtype == torch.bfloat16
    assert_close(found, function(), 1e-6)


@pytest.mark.parametrize("name", FORWARD)
def test_compiled_step_changes_the_state(load, name):
    module = load(name)
    case = make(module, length=1, grad=False)
    known = module.SPEC["arguments"]
    now = {n: t[:, 0] if known[n]["kind"] == "input" else t for n, t in case.arguments.items()}
    step = getattr(module, f"{name}_step")

    def function(states):
        one = type(case)(module, now, states)
        return step(*one.required, states if len(states) > 1 else states[0], **one.optional)[:-1]

    twins = [tuple(s.clone() for s in case.states) for _ in range(2)]
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    for _ in range(2):
        assert_close(compiled(twins[0]), function(twins[1]), 1e-6)
        assert_close(twins[0], twins[1], 1e-6)
    assert not torch.equal(twins[0][0], case.states[0])


def test_shapes_without_memory(module):
    """Fake tensors give the same shapes, dtypes and strides as real ones, and run nothing."""
    case = make(module)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        fake = case.map(mode.from_tensor)()
    for one, other in zip(fake, case(), strict=True):
        assert (one.shape, one.dtype, one.stride()) == (other.shape, other.dtype, other.stride())


def test_the_operator_is_one_node_of_a_graph(module):
    """torch.export and make_fx see the operator, not what it runs."""
    case = make(module, grad=False, length=3)
    name = f"{module._NAMESPACE}.forward"
    tensors = [t for t in (*case.arguments.values(), *case.states) if t is not None]

    def function(*values):
        given = iter(values)
        return case.map(lambda _: next(given))()

    class Layer(torch.nn.Module):
        def forward(self, *values):
            return function(*values)

    graph = torch.export.export(Layer(), tuple(tensors)).graph_module
    assert graph.code.count(name) == 1
    assert make_fx(function)(*tensors).code.count(name) == 1
    assert_close(make_fx(function)(*tensors)(*tensors), case(), 1e-6)
