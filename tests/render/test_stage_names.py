"""Kernels of a stage have names of their own, whatever schedule it has."""

import ast
import re
import textwrap
from collections import Counter

import pytest

from seqgen.build import compile_spec
from seqgen.gpu.table import find_gpu
from seqgen.plan.schedule import KernelPart
from seqgen.render import stages
from seqgen.render.stages import render_parts
from seqgen.spec.loader import parse_spec

TWO_MEMORIES = """
    operator: odd
    axes: {K: 64, V: 64, W: 64}
    inputs: {q: [H, K], k: [H, K], v: [H, V], w: [H, W], c: [H]}
    state: {z: [H], A: [H, K, V], S: [H, V, W]}
    update:
      - z = 0.5 * z + c
      - A = A + tanh(z) * k * v
      - S = S + sum(q * A, K) * w
    output: {o: "sum(v * S, V)"}
"""


def test_the_same_template_three_times():
    spec = parse_spec(textwrap.dedent(TWO_MEMORIES), "odd.yaml")
    compiled = compile_spec(spec, find_gpu("h200"))
    tree = ast.parse(compiled.module.source)
    functions = Counter(node.name for node in tree.body if isinstance(node, ast.FunctionDef))
    assert {name for name, count in functions.items() if count > 1} <= {"_"}
    kernels = [space.kernel for space in compiled.schedule.spaces]
    assert len(set(kernels)) == len(kernels)
    for kernel in ("recurrent_forward", "front_front_recurrent_forward", "front_linear_state"):
        assert kernel in kernels
    for kernel in set(kernels) - {"operator"}:
        assert f"launch_{kernel}" in functions and f"{kernel}_kernel" in functions
        (launcher,) = [n for n in tree.body if getattr(n, "name", "") == f"launch_{kernel}"]
        text = ast.unparse(launcher)
        assert f"_config('{kernel}'" in text and re.search(rf"\b{kernel}_kernel\[", text)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ((), ["launch_a", "a_kernel", "_a_forward", '_config("a"', '_config("operator"', "other"]),
        (
            ("front",),
            ["launch_front_a", "front_a_kernel", "_front_a_forward", '_config("front_a"',
             '_config("operator"', "other"],
        ),
        (
            ("one", "two"),
            ["launch_one_two_a", "one_two_a_kernel", "_one_two_a_forward",
             '_config("one_two_a"', '_config("operator"', "other"],
        ),
    ],
)  # fmt: skip
def test_prefixes(names, expected, monkeypatch):
    text = """
def launch_a(x):
    a_kernel[x](_config("a"), _config("operator"))
    other(x)


def a_kernel(x):
    pass


def _a_forward(x):
    launch_a(x)
"""
    monkeypatch.setattr(stages, "render", lambda template, plan: text)
    plain, found = render_parts([KernelPart("b", "", None), KernelPart("a", "", None, names)])
    assert plain == text
    assert all(word in found for word in expected)
    assert found.count("launch_") == 2 and len(found) >= len(text)


def test_a_name_that_is_also_a_value_is_no_function_to_rename(monkeypatch):
    text = "def chunks(x):\n    pass\n\n\ndef launch_a(x):\n    chunks = x\n"
    monkeypatch.setattr(stages, "render", lambda template, plan: text)
    with pytest.raises(AssertionError, match="chunks also name a value in stage 'front'"):
        render_parts([KernelPart("a", "", None, ("front",))])
