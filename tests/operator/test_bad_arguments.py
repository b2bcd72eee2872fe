"""Every bad argument is refused by name, with the numbers, and nothing is changed."""

import re

import pytest
import torch

from tests.operator.operators import make

FP32 = torch.float32


def call(module, case, function=None, **changes):
    """The operator with some arguments replaced, all by name."""
    keywords = {**case.arguments, "initial_state": case.initial_state, "output_final_state": True}
    keywords.update(changes)
    return (function or getattr(module, case.name))(**keywords)


def refused(kind, message, run):
    with pytest.raises(kind) as caught:
        run()
    assert type(caught.value) is kind and str(caught.value) == message


def of(*shape, dtype=FP32, **options):
    return torch.zeros(shape, dtype=dtype, **options)


BAD = [
    # argument, value, exception, message behind "gated_delta_rule: "
    ("q", None, TypeError, "'q' must be a tensor, got NoneType."),
    ("q", [1.0], TypeError, "'q' must be a tensor, got list."),
    ("k", None, TypeError, "'k' must be a tensor, got NoneType."),
    ("beta", 0.5, TypeError, "'beta' must be a tensor, got float."),
    (
        "q",
        of(2, 7, 2, 5, dtype=torch.int64),
        TypeError,
        "'q' has dtype int64, expected float32, float16 or bfloat16 (float64 on the CPU only).",
    ),
    (
        "k",
        of(2, 7, 2, 5, dtype=torch.bfloat16),
        TypeError,
        "'k' has dtype bfloat16, expected float32, as 'q' has.",
    ),
    (
        "v",
        of(2, 7, 4, 3, dtype=torch.float64),
        TypeError,
        "'v' has dtype float64, expected float32, as 'q' has.",
    ),
    (
        "g",
        of(2, 7, 4, dtype=torch.float16),
        TypeError,
        "'g' has dtype float16, expected float32.",
    ),
    (
        "v",
        of(2, 7, 4, 3, device="meta"),
        ValueError,
        "'v' is on meta, the first input on cpu.",
    ),
    (
        "q",
        of(2, 7, 5),
        ValueError,
        "'q' has shape (2, 7, 5), expected 4 dimensions [B, T, H, K].",
    ),
    ("q", of(), ValueError, "'q' has shape (), expected 4 dimensions [B, T, H, K]."),
    (
        "k",
        of(2, 7, 2, 6),
        ValueError,
        "'k' has shape (2, 7, 2, 6) for [B, T, H, K]; K is 5 in 'q', here 6.",
    ),
    (
        "v",
        of(2, 8, 4, 3),
        ValueError,
        "'v' has shape (2, 8, 4, 3) for [B, T, HV, V]; T is 7 in 'q', here 8.",
    ),
    (
        "beta",
        of(1, 7, 4),
        ValueError,
        "'beta' has shape (1, 7, 4) for [B, T, HV]; B is 2 in 'q', here 1.",
    ),
    ("initial_state", 0, TypeError, "'initial_state' must be a tensor, got int."),
    (
        "initial_state",
        of(2, 4, 5, 3, dtype=torch.bfloat16),
        TypeError,
        "'initial_state' has dtype bfloat16, expected float32.",
    ),
    (
        "initial_state",
        of(2, 4, 5, 3, device="meta"),
        ValueError,
        "'initial_state' is on meta, the first input on cpu.",
    ),
    (
        "initial_state",
        of(2, 4, 3, 5),
        ValueError,
        "'initial_state' has shape (2, 4, 3, 5) for [sequences, HV, K, V]; K is 5 in 'q', here 3.",
    ),
    (
        "initial_state",
        of(1, 4, 5, 3),
        ValueError,
        "'initial_state' has shape (1, 4, 5, 3) for [sequences, HV, K, V]; "
        "sequences is 2 in the batch, here 1.",
    ),
    ("cu_seqlens", [0, 7], TypeError, "'cu_seqlens' must be a tensor, got list."),
    (
        "cu_seqlens",
        torch.tensor([[0, 7]]),
        ValueError,
        "'cu_seqlens' has shape (1, 2), expected [sequences + 1].",
    ),
    (
        "cu_seqlens",
        torch.tensor([], dtype=torch.int32),
        ValueError,
        "'cu_seqlens' has shape (0,), expected [sequences + 1].",
    ),
    (
        "cu_seqlens",
        torch.tensor([0.0, 7.0]),
        TypeError,
        "'cu_seqlens' has dtype float32, expected int32 or int64.",
    ),
    (
        "cu_seqlens",
        torch.tensor([0, 7], device="meta"),
        ValueError,
        "'cu_seqlens' is on meta, the first input on cpu.",
    ),
    (
        "cu_seqlens",
        torch.tensor([0, 7]),
        ValueError,
        "packed sequences need a batch of 1, got 2; "
        "flatten the batch into time and add its borders to 'cu_seqlens'.",
    ),
]


@pytest.mark.parametrize(("name", "value", "kind", "message"), BAD)
def test_bad_argument(load, name, value, kind, message):
    module = load("gated_delta_rule")
    case = make(module, grad=False)
    refused(kind, f"{case.name}: {message}", lambda: call(module, case, **{name: value}))


@pytest.mark.parametrize("borders", [[1, 7], [0, 6], [0, 8], [0, 5, 3, 7], [7], [0, -1, 7]])
def test_bad_borders(load, borders):
    module = load("simple_gla")
    case = make(module, batch=1, borders=borders, grad=False)
    message = f"simple_gla: 'cu_seqlens' must ascend from 0 to T = 7, got {borders}."
    refused(ValueError, message, case)


def test_groups_must_divide(load):
    module = load("gated_delta_rule")
    case = make(module, sizes={"H": 4, "HV": 6}, grad=False)
    refused(ValueError, "gated_delta_rule: HV = 6 must be a multiple of H = 4.", case)


def test_an_optional_argument_is_checked(load):
    module = load("mamba2_ssd")
    case = make(module, grad=False)
    for name, value, kind, message in (
        ("z", 1, TypeError, "'z' must be a tensor, got int."),
        ("z", of(2, 7, 2), ValueError, "'z' has shape (2, 7, 2), expected 4 dimensions "
         "[B, T, H, P]."),
        ("D", of(3), ValueError, "'D' has shape (3,) for [H]; H is 2 in 'x', here 3."),
        ("D", of(2, dtype=torch.float16), TypeError, "'D' has dtype float16, expected float32."),
    ):  # fmt: skip
        refused(
            kind, f"mamba2_ssd: {message}", lambda n=name, v=value: call(module, case, **{n: v})
        )


def test_float32_or_the_io_dtype_where_declared(load):
    module = load("gated_delta_rule")
    case = make(module, dtype=torch.bfloat16, grad=False)
    low = call(module, case, g=case.arguments["g"].bfloat16())
    assert low[0].dtype == torch.bfloat16
    message = "gated_delta_rule: 'g' has dtype float16, expected float32 or bfloat16."
    refused(TypeError, message, lambda: call(module, case, g=case.arguments["g"].half()))


def test_several_states(load):
    module = load("two_memories")
    case = make(module, grad=False)
    wanted = "two_memories: 'initial_state' must be a TwoMemoriesState or a tuple of 4 entries, got"
    note = "Optional tensors (z, skip) are keyword-only."
    for value, found in ((case.states[0], "Tensor"), (case.states[:3], "tuple of 3"), (7, "int")):
        for function in (module.two_memories, module.two_memories_reference):
            run = lambda v=value, f=function: call(module, case, f, initial_state=v)
            refused(TypeError, f"{wanted} {found}. {note}", run)
    states = module.TwoMemoriesState(n=case.states[1].double())
    message = "two_memories: 'initial_state.n' has dtype float64, expected float32."
    refused(TypeError, message, lambda: call(module, case, initial_state=states))
    states = module.TwoMemoriesState(position=of(3))
    message = (
        "two_memories: 'initial_state.position' has shape (3,) for [sequences]; "
        "sequences is 2 in the batch, here 3."
    )
    refused(ValueError, message, lambda: call(module, case, initial_state=states))


def test_an_unknown_argument(load):
    module = load("simple_gla")
    case = make(module, grad=False)
    with pytest.raises(TypeError, match=re.escape("unexpected keyword argument 'gate'")):
        call(module, case, gate=1)


def test_sequences_are_those_of_the_packing(load):
    module = load("simple_gla")
    case = make(module, batch=1, borders=[0, 2, 4, 7], grad=False)
    message = (
        "simple_gla: 'initial_state' has shape (1, 2, 5, 3) for [sequences, H, K, V]; "
        "sequences is 3 in 'cu_seqlens', here 1."
    )
    for function in (None, module.simple_gla_reference):
        run = lambda f=function: call(
            module, case, f, initial_state=of(1, 2, 5, 3), cu_seqlens=case.cu_seqlens
        )
        refused(ValueError, message, run)


def test_a_dtype_that_autocast_leaves_alone(load):
    module = load("simple_gla")
    case = make(module, grad=False)
    message = "simple_gla: 'k' has dtype float64, expected bfloat16, as autocast has it."
    with torch.autocast("cpu", torch.bfloat16):
        refused(TypeError, message, lambda: call(module, case, k=case.arguments["k"].double()))


def test_an_optional_argument_by_place(load):
    """It is taken for the initial state."""
    module = load("mamba2_ssd")
    case = make(module, grad=False)
    note = "Optional tensors (z, D, dt_bias) are keyword-only."
    for name, message in (
        ("z", "'initial_state' has shape (2, 7, 2, 3) for [sequences, H, P, N]; "
         "H is 2 in 'x', here 7."),
        ("D", "'initial_state' has shape (2,), expected 4 dimensions [sequences, H, P, N]."),
    ):  # fmt: skip
        for function in (module.mamba2_ssd, module.mamba2_ssd_reference):
            run = lambda n=name, f=function: f(*case.required, case.arguments[n])
            refused(ValueError, f"mamba2_ssd: {message} {note}", run)
    low = case.arguments["z"].bfloat16()
    message = "mamba2_ssd: 'initial_state' has dtype bfloat16, expected float32."
    refused(TypeError, f"{message} {note}", lambda: module.mamba2_ssd(*case.required, low))


BAD_STEPS = [
    ("q", None, TypeError, "gated_delta_rule_step: 'q' must be a tensor, got NoneType."),
    (
        "q",
        of(2, 1, 2, 5),
        ValueError,
        "gated_delta_rule_step: 'q' has shape (2, 1, 2, 5), expected 3 dimensions [B, H, K].",
    ),
    (
        "v",
        of(2, 3, 3),
        ValueError,
        "gated_delta_rule_step: 'g' has shape (2, 4) for [B, HV]; HV is 3 in 'v', here 4.",
    ),
    ("state", None, TypeError, "gated_delta_rule_step: 'state' must be a tensor, got NoneType."),
    (
        "state",
        of(2, 4, 5, 3, dtype=torch.bfloat16),
        TypeError,
        "gated_delta_rule_step: 'state' has dtype bfloat16, expected float32.",
    ),
    (
        "state",
        of(2, 4, 5, 3, device="meta"),
        ValueError,
        "gated_delta_rule_step: 'state' is on meta, the first input on cpu.",
    ),
    (
        "state",
        of(2, 4, 3, 5).mT,
        ValueError,
        "gated_delta_rule_step: 'state' must be contiguous; it is written in place.",
    ),
    (
        "state",
        of(2, 4, 5, 4),
        ValueError,
        "gated_delta_rule_step: 'state' has shape (2, 4, 5, 4) for [sequences, HV, K, V]; "
        "V is 3 in 'v', here 4.",
    ),
]


@pytest.mark.parametrize(("name", "value", "kind", "message"), BAD_STEPS)
def test_bad_argument_of_a_step(load, name, value, kind, message):
    module = load("gated_delta_rule")
    case = make(module, length=1, grad=False)
    good = {**{n: t[:, 0] for n, t in case.arguments.items()}, "state": case.states[0]}
    before = case.states[0].clone()
    refused(kind, message, lambda: module.gated_delta_rule_step(**{**good, name: value}))
    assert torch.equal(case.states[0], before)


def test_states_of_a_step_with_several(load):
    module = load("two_memories")
    case = make(module, length=1, grad=False)
    spec = module.SPEC["arguments"]
    now = {n: t[:, 0] if spec[n]["kind"] == "input" else t for n, t in case.arguments.items()}
    message = "two_memories_step: 'state' must be a TwoMemoriesState, all 4 entries given."
    for value in (None, case.states[0], case.states[:2]):
        refused(TypeError, message, lambda v=value: module.two_memories_step(**now, state=v))
    before = [s.clone() for s in case.states]
    entries = (*case.states[:3], None)
    message = "two_memories_step: 'state.position' must be a tensor, got NoneType."
    refused(TypeError, message, lambda: module.two_memories_step(**now, state=entries))
    assert all(torch.equal(a, b) for a, b in zip(before, case.states, strict=True))


BAD_FOR_THE_REFERENCE = [
    entry for entry in BAD if not (isinstance(entry[1], torch.Tensor) and "dtype" in entry[3])
]


@pytest.mark.parametrize(("name", "value", "kind", "message"), BAD_FOR_THE_REFERENCE)
def test_the_reference_refuses_what_the_operator_refuses(load, name, value, kind, message):
    module = load("gated_delta_rule")
    case = make(module, grad=False)
    run = lambda: call(module, case, module.gated_delta_rule_reference, **{name: value})
    refused(kind, f"{case.name}: {message}", run)


@pytest.mark.parametrize("borders", [[5, 7], [0, 6], [0, 14], [0, 5, 3, 7], [7], [0, -1, 7]])
def test_bad_borders_of_the_reference(load, borders):
    module = load("simple_gla")
    case = make(module, batch=1, borders=borders, states=False, grad=False)
    message = f"simple_gla: 'cu_seqlens' must ascend from 0 to T = 7, got {borders}."
    refused(ValueError, message, case.reference)


@pytest.mark.parametrize("name", ["q", "g", "initial_state"])
def test_the_reference_takes_floats_only(load, name):
    module = load("gated_delta_rule")
    case = make(module, grad=False)
    value = {**case.arguments, "initial_state": case.states[0]}[name].int()
    message = (
        f"gated_delta_rule: '{name}' has dtype int32, expected float64, float32, float16 or "
        "bfloat16."
    )
    run = lambda: call(module, case, module.gated_delta_rule_reference, **{name: value})
    refused(TypeError, message, run)
    packing = torch.tensor([0.0, 7.0])
    message = "gated_delta_rule: 'cu_seqlens' has dtype float32, expected int32 or int64."
    run = lambda: call(module, case, module.gated_delta_rule_reference, cu_seqlens=packing)
    refused(TypeError, message, run)


def test_the_reference_takes_mixed_floats(load):
    """Everything is brought to the first input's accumulation dtype, and has gradients."""
    module = load("gated_delta_rule")
    case = make(module, batch=1, borders=[0, 3, 7])
    kinds = {"k": torch.float16, "v": torch.bfloat16, "g": torch.float64}
    mixed = {n: t.detach().to(kinds.get(n, FP32)) for n, t in case.arguments.items()}
    function, packing = module.gated_delta_rule_reference, case.cu_seqlens
    state = case.states[0].detach().double()
    leaves = [t.requires_grad_() for t in (*mixed.values(), state)]
    o, final = call(module, case, function, **mixed, initial_state=state, cu_seqlens=packing)
    same = {n: t.detach().float() for n, t in mixed.items()}
    like = call(module, case, function, **same, initial_state=state.float(), cu_seqlens=packing)
    assert o.dtype == final.dtype == FP32
    assert torch.equal(o, like[0]) and torch.equal(final, like[1])
    gradients = torch.autograd.grad(o.sum() + final.sum(), leaves)
    assert all(
        g.dtype == t.dtype and g.abs().sum() > 0 for g, t in zip(gradients, leaves, strict=True)
    )
