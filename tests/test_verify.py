"""What ``seqgen verify`` compares, and that it can fail. Kernels are not run here."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import seqgen
from seqgen.verify import Comparison, relative_error, run_verify, verify
from seqgen.verify_inputs import (
    PACKED,
    Case,
    decayed,
    make_arguments,
    random_values,
    reached_states,
    verify_cases,
    verify_sizes,
)
from tests.operator.operators import SPECS


@pytest.fixture(scope="module")
def module(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SEQGEN_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield seqgen.load_operator(SPECS["simple_gla"], gpu="h100")


def broken(module, change):
    """The operator with ``change`` applied to its arguments, beside the right reference."""
    operator = lambda q, k, v, g, **options: module.simple_gla(*change(q, k, v, g), **options)
    return SimpleNamespace(
        SPEC=module.SPEC, simple_gla=operator, simple_gla_reference=module.simple_gla_reference
    )


def test_a_right_operator_passes(module):
    rows = verify(module, "fp32")
    assert all(row.passed for row in rows)
    assert {row.tensor for row in rows} == {
        *("o", "S (final)", "d q", "d k", "d v", "d g", "d initial S")
    }
    cases = {row.case for row in rows}
    assert cases >= {"fp32 T=1", "fp32 T=70", "fp32 packed", "fp32 decay -inf"}


def test_without_a_gpu_some_cases_are_for_the_chunkwise_kernels(module):
    wide = [case for case in verify_cases(module.SPEC, on_gpu=False) if case.wide]
    sizes = verify_sizes(module.SPEC, False, wide[0])
    assert len(wide) == 2
    assert all(module._linear_fits({**sizes, "T": case.length}) for case in wide)
    narrow = verify_sizes(module.SPEC, False, PACKED)
    assert not module._linear_fits({**narrow, "T": 70})


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        (lambda q, k, v, g: (q * 1.001, k, v, g), "o"),
        (lambda q, k, v, g: (q, k, v, g * 1.01), "S (final)"),
        (lambda q, k, v, g: (q.detach() + 0 * q, k, v, g), "d q"),
        (lambda q, k, v, g: (q, k, v * float("nan"), g), "o"),
    ],
)
def test_a_wrong_operator_fails(module, change, wrong):
    rows = verify(broken(module, change), "fp32")
    failed = {row.tensor for row in rows if not row.passed}
    assert wrong in failed


@pytest.mark.parametrize("as_json", [False, True])
def test_verdict_is_the_last_line(as_json, module, monkeypatch, capsys):
    """For programs stdout is JSON and nothing else."""
    rows = [Comparison("T=1", "o", 1e-6, 1e-4), Comparison("T=1", "d q", 1.0, 1e-4)]
    monkeypatch.setattr("seqgen.verify._load", lambda source: module)
    monkeypatch.setattr("seqgen.verify.verify", lambda module, dtype: rows)
    assert run_verify(Path("simple_gla.yaml"), ["fp32"], as_json) == 1
    shown = capsys.readouterr()
    verdict = "simple_gla: 1 of 2 agree with float64, in Triton's interpreter (no GPU here). "
    verdict += "All cases ran token by token."
    if as_json:
        assert [row["passed"] for row in json.loads(shown.out)] == [True, False]
        assert shown.err.startswith(verdict)
    else:
        assert shown.out.splitlines()[-1].startswith(verdict) and shown.err == ""


def test_what_is_not_finite_in_float64_is_counted_apart(module, monkeypatch, capsys):
    broken_spec = SimpleNamespace(
        SPEC=module.SPEC,
        simple_gla=lambda q, k, v, g, **options: module.simple_gla(q / 0, k, v, g, **options),
        simple_gla_reference=lambda q, *rest, **options: module.simple_gla_reference(
            q / 0, *rest, **options
        ),
    )
    rows = [row for row in verify(broken_spec, "fp32") if row.case == "fp32 T=17"]
    assert {row.tensor: row.defined for row in rows}["o"] is False
    assert {row.tensor: row.defined for row in rows}["S (final)"] is True
    monkeypatch.setattr("seqgen.verify._load", lambda source: module)
    monkeypatch.setattr("seqgen.verify.verify", lambda module, dtype: rows)
    assert run_verify(Path("simple_gla.yaml"), ["fp32"], False) == 1
    shown = capsys.readouterr().out
    assert "  not finite in float64 either\n" in shown
    assert "there the equations overflow or divide by zero, whatever runs them." in shown


def test_verdict_says_how_many_cases_ran_in_chunks(module, monkeypatch, capsys):
    rows = [Comparison("T=70, wide", "o", 1e-6, 1e-4, chunkwise=True), Comparison("T=1", "o", 0, 1)]
    monkeypatch.setattr("seqgen.verify._load", lambda source: module)
    monkeypatch.setattr("seqgen.verify.verify", lambda module, dtype: rows)
    assert run_verify(Path("simple_gla.yaml"), ["fp32"], False) == 0
    said = capsys.readouterr().out
    assert said.endswith(" 1 of 2 cases ran in chunks, short ones token by token.\n")


def test_initial_states_are_such_as_the_operator_leaves(module):
    """After some tokens of values that are 1 times keys that are 1, no state is below 0."""
    case = Case("packed", 1, 9, (0, 4, 4, 9))
    sizes = verify_sizes(module.SPEC, False, case)
    generator = torch.Generator().manual_seed(3)
    arguments = make_arguments(module.SPEC, sizes, case, torch.float32, generator)
    squares = lambda q, k, v, g, **options: module.simple_gla_reference(
        q, torch.ones_like(k), torch.ones_like(v), g, **options
    )
    positive = SimpleNamespace(SPEC=module.SPEC, simple_gla_reference=squares)
    (state,) = reached_states(positive, sizes, case, arguments, generator)
    heads = [sizes[axis] for axis in module.SPEC["states"]["S"]]
    assert state.shape == (3, *heads) and state.dtype == torch.float32
    assert float(state.min()) > 0


def test_on_a_gpu_64_channels_are_verified_too(module):
    narrow = [case for case in verify_cases(module.SPEC, on_gpu=True) if case.most]
    assert [verify_sizes(module.SPEC, True, case)["K"] for case in narrow] == [64]
    assert verify_sizes(module.SPEC, True, PACKED)["K"] == 128


def test_decays_of_every_strength():
    usual = -torch.rand(2, 7, 3)
    assert not decayed(usual, "none").any()
    assert torch.equal(decayed(usual, "strong"), 8 * usual)
    assert torch.equal(decayed(usual, "weak"), 0.01 * usual)
    for kind in ("-20", "-inf"):
        changed = decayed(usual, kind)
        assert (changed[:, [2]] == float(kind)).all()
        assert torch.equal(changed[:, :2], usual[:, :2])


def test_cases_of_decays_where_an_input_may_be_minus_infinity(module):
    names = [case.name for case in verify_cases(module.SPEC, on_gpu=True)]
    assert names[:3] == ["T=1", "T=17", "T=70"] and "decay -100" in names
    bounded = {**module.SPEC, "arguments": {"q": {"kind": "input", "range": (-1.0, 0.0)}}}
    assert not any(case.decay != "usual" for case in verify_cases(bounded, on_gpu=True))


@pytest.mark.parametrize(
    "bounds", [None, (0.0, 1.0), (float("-inf"), 0.0), (2.0, float("inf")), (-3.0, -1.0)]
)
def test_values_lie_in_the_declared_range(bounds):
    values = random_values([1000], bounds, False, torch.Generator().manual_seed(1))
    low, high = bounds or (float("-inf"), float("inf"))
    assert float(values.std()) > 0.05 and (values >= low).all() and (values <= high).all()


def test_relative_error():
    exact = torch.tensor([3.0, 4.0])
    assert relative_error(exact * 1.01, exact) == pytest.approx(0.01, rel=1e-4)
    zero = torch.zeros(2)
    assert relative_error(torch.tensor([0.0, 1e-3]), zero) == pytest.approx(1e-3 / 2**0.5)
    assert relative_error(torch.empty(0), torch.empty(0)) == 0.0
    assert not relative_error(torch.tensor([float("nan"), 1.0]), exact) <= 1.0
