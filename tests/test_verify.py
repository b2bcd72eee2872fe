"""What ``seqgen verify`` compares, and that it can fail. Kernels are not run here."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import seqgen
from seqgen.verify import (
    Comparison,
    decayed,
    random_values,
    relative_error,
    run_verify,
    verify,
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
    sizes = verify_sizes(module.SPEC, on_gpu=False, wide=True)
    assert len(wide) == 2
    assert all(module._linear_fits({**sizes, "T": case.length}) for case in wide)
    narrow = verify_sizes(module.SPEC, on_gpu=False)
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
    verdict = "simple_gla: 1 of 2 agree with float64, "
    if as_json:
        assert [row["passed"] for row in json.loads(shown.out)] == [True, False]
        assert shown.err.startswith(verdict)
    else:
        assert shown.out.splitlines()[-1].startswith(verdict) and shown.err == ""


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
