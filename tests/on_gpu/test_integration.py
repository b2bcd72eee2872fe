"""Compiled kernels inside PyTorch: compile, CUDA graphs, autocast, checkpointing, steps."""

import threading

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from tests.operator.operators import NAMES, assert_close, assert_equal, gradients, make

DEVICE = "cuda"
FORWARD = [name for name in NAMES if not name.endswith("_backward")]
SIZES = {"H": 2, "HV": 4, "G": 1, "K": 64, "V": 64, "P": 64, "N": 64}


def bf16(module, **options):
    options = {"length": 150, "sizes": SIZES, **options}
    return make(module, dtype=torch.bfloat16, device=DEVICE, **options)


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch._dynamo.reset()


@pytest.mark.parametrize("packed", [False, True])
def test_opcheck(module, packed):
    borders = [0, 30, 30, 150] if packed else None
    case = bf16(module, batch=1 if packed else 2, borders=borders)
    inputs = (*case.arguments.values(), *case.states, case.cu_seqlens)
    torch.library.opcheck(module._forward_op, (*inputs, True))
    bare = bf16(module, options=False, states=False)
    torch.library.opcheck(module._forward_op, bare.operands(False))
    cotangents = [torch.ones_like(result) for result in case()]
    torch.library.opcheck(module._backward_op, case.operands(*cotangents))


@pytest.mark.parametrize("name", FORWARD)
def test_opcheck_of_the_step(load, name):
    module = load(name)
    case = bf16(module, grad=False)
    known = module.SPEC["arguments"]
    now = [t[:, 0] if known[n]["kind"] == "input" else t for n, t in case.arguments.items()]
    torch.library.opcheck(module._step_op, (*now, *case.states))


@pytest.mark.parametrize("dynamic", [False, True])
def test_compiled_by_inductor(module, dynamic):
    name, known = module.SPEC["operator"], module.SPEC["arguments"]
    operator, states = getattr(module, name), len(module.SPEC["states"])

    def function(*values):
        # Something to fuse on both sides of the operator.
        values = [1.5 * value for value in values]
        given = dict(zip(known, values[: len(known)], strict=True))
        initial = values[-states] if states == 1 else tuple(values[-states:])
        needed = [given[n] for n in known if known[n]["required"]]
        options = {n: given[n] for n in known if not known[n]["required"]}
        *outputs, final = operator(
            *needed, initial_state=initial, output_final_state=True, **options
        )
        return [2 * r for r in (*outputs, *(final if states > 1 else (final,)))]

    compiled = torch.compile(function, fullgraph=True, dynamic=dynamic)
    for length in (100, 150) if dynamic else (100,):
        case = bf16(module, length=length)
        found, wanted = compiled(*case.tensors), function(*case.tensors)
        assert_close(found, wanted, 0.005)
        pair = [gradients(results, case.tensors) for results in (found, wanted)]
        assert_close(*pair, 0.01)


def test_cuda_graph_of_forward_and_backward(module):
    case = bf16(module)
    weights = [torch.randn_like(r) for r in case()]

    def run():
        results = case()
        pairs = list(zip(results, weights, strict=True))
        kept = [(r, w) for r, w in pairs if r.requires_grad]
        loss = sum((r.float() * w.float()).sum() for r, w in kept)
        return [*results, *torch.autograd.grad(loss, case.tensors, allow_unused=True)]

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = run()
    other = bf16(module, seed=9)
    with torch.no_grad():
        for tensor, value in zip(case.tensors, other.tensors, strict=True):
            tensor.copy_(value)
    graph.replay()
    torch.cuda.synchronize()
    for one, two in zip(captured, run(), strict=True):
        assert (one is None) == (two is None)
        assert one is None or torch.equal(one, two)


@pytest.mark.parametrize("name", FORWARD)
def test_cuda_graph_of_steps(load, name):
    module = load(name)
    case = bf16(module, grad=False)
    known, step = module.SPEC["arguments"], getattr(module, f"{name}_step")
    now = {n: t[:, 0].clone() if known[n]["kind"] == "input" else t
           for n, t in case.arguments.items()}  # fmt: skip
    twins = [tuple(s.clone() for s in case.states) for _ in range(2)]

    def run(states):
        one = type(case)(module, now, states)
        return step(*one.required, states if len(states) > 1 else states[0], **one.optional)[:-1]

    eager = [[r.clone() for r in run(twins[1])] for _ in range(3)]
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = run(twins[0])
    for wanted in eager:
        graph.replay()
        assert_equal(captured, wanted)
    assert_equal(twins[0], twins[1])


def test_autocast(module):
    case = make(module, length=100, sizes=SIZES, device=DEVICE)
    with torch.autocast(DEVICE, dtype=torch.bfloat16):
        results = case()
        found = gradients(results, case.tensors)
    spec = module.SPEC["arguments"]
    free = {n for n, t in spec.items() if t["kind"] == "input" and t["dtype"] is None}
    low = {n: t.to(torch.bfloat16) if n in free else t for n, t in case.arguments.items()}
    wanted = type(case)(module, low, case.states)()
    assert_equal(results, wanted)
    assert_equal(found, gradients(wanted, case.tensors))
    assert all(g.dtype == torch.float32 for g in found)


def test_activation_checkpointing(module):
    case = bf16(module)

    def run(*tensors):
        values = iter(tensors)
        return tuple(case.map(lambda _: next(values))())

    results = checkpoint(run, *case.tensors, use_reentrant=False)
    assert_equal(results, case())
    assert_equal(gradients(results, case.tensors), gradients(case(), case.tensors))


def test_non_contiguous_arguments(module):
    case = bf16(module, grad=False)
    dense = case.map(lambda t: t.clone().requires_grad_(t.dim() > 1))
    turned = lambda t: t.transpose(0, -1).contiguous().transpose(0, -1).requires_grad_()
    other = case.map(lambda t: turned(t) if t.dim() > 1 else t)
    assert not all(t.is_contiguous() for t in other.tensors)
    assert_equal(other(), dense())
    assert_equal(gradients(other(), other.tensors), gradients(dense(), dense.tensors))


@pytest.mark.parametrize("name", FORWARD)
def test_steps_are_the_full_operator(load, name):
    module = load(name)
    case = bf16(module, length=40, grad=False)
    whole, outputs = case(), len(module.SPEC["outputs"])
    states = tuple(s.clone() for s in case.states)
    known, step = module.SPEC["arguments"], getattr(module, f"{name}_step")
    rows = []
    for token in range(40):
        now = {n: t[:, token] if known[n]["kind"] == "input" else t
               for n, t in case.arguments.items()}  # fmt: skip
        one = type(case)(module, now, states)
        state = states if len(states) > 1 else states[0]
        rows.append(step(*one.required, state, **one.optional)[:-1])
    steps = [torch.stack([row[i] for row in rows], 1) for i in range(outputs)]
    assert_close(steps, whole[:outputs], 0.01)
    assert_close(states, whole[outputs:], 0.01)


def test_two_streams_at_once(module):
    """Nothing that a call uses is shared with a call on another stream."""
    case = bf16(module, grad=False)
    wanted, streams = case(), [torch.cuda.Stream() for _ in range(2)]
    torch.cuda.synchronize()
    found = []
    for turn in range(10):
        with torch.cuda.stream(streams[turn % 2]):
            found.append(case())
    torch.cuda.synchronize()
    for results in found:
        assert_equal(results, wanted)


def test_bad_borders_are_found_in_debug_mode(load, monkeypatch):
    case = bf16(load("simple_gla"), batch=1, borders=[0, 90, 40, 150])
    case()  # undefined results, but no illegal access
    torch.cuda.synchronize()
    monkeypatch.setenv("SEQGEN_DEBUG", "1")
    with pytest.raises(ValueError) as caught:
        case()
    wanted = "simple_gla: 'cu_seqlens' must ascend from 0 to T = 150, got [0, 90, 40, 150]."
    assert str(caught.value) == wanted


def test_float64_is_refused(module):
    case = make(module, dtype=torch.float64, device=DEVICE)
    with pytest.raises(TypeError, match=r"has dtype float64, expected float32, float16 or bf"):
        case()


def test_backward_in_a_thread_that_has_done_nothing_yet(load):
    """As autograd's thread does: it enters no CUDA context before something runs there."""
    module = load("delta_rule")
    case = bf16(module, length=128, grad=False)
    operands = case.operands(*(torch.ones_like(result) for result in case()))
    module._run_backward(*operands)  # from now on nothing needs memory of the driver
    found = []
    thread = threading.Thread(target=lambda: found.append(module._run_backward(*operands)))
    thread.start()
    thread.join()
    assert len(found) == 1
