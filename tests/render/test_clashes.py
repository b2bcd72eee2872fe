"""Names of the user that a generated file needs itself: found, and reported where declared."""

import re
from pathlib import Path

import pytest

from seqgen.build import compile_spec
from seqgen.errors import Span, SpecError
from seqgen.gpu.table import find_gpu
from seqgen.passes.lower import lower
from seqgen.render.clashes import check_clashes
from seqgen.spec.loader import load_spec, parse_spec
from seqgen.spec.rename import StandIn, stand_ins, with_stand_ins

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.yaml"))

DEMO = """\
operator: demo
axes:   {K: 8, V: 8}
inputs: {q: [H, K], k: [H, K], v: [H, V], g: [H]}
state:  {S: [H, K, V]}
let:    {w: exp(g)}
update: ["S = w * S + k * v"]
output: {o: "sum(q * S, K)"}
"""


def mathematics(spec) -> str:
    """All that ``spec`` means, without the text of its equations."""
    recurrence = lower(spec)
    parts = (recurrence.axes, recurrence.tensors, recurrence.states, recurrence.outputs)
    return repr((recurrence.name, *parts, [(a.name, a.value) for a in recurrence.assignments]))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_stand_ins_change_names_only(path):
    spec = load_spec(path)
    words = stand_ins(spec)
    text = mathematics(with_stand_ins(spec, words))
    assert not any(f"'{w.name}'" in text for w in words)
    for w in words:
        text = text.replace(w.word, w.name)
    assert text == mathematics(spec)


def refused(text: str) -> tuple[str, str]:
    with pytest.raises(SpecError) as caught:
        compile_spec(parse_spec(text, "demo.yaml"), find_gpu("h100"))
    assert caught.value.hint == "Choose another name."
    return caught.value.message, caught.value.span.text


@pytest.mark.parametrize(
    ("old", "new", "message", "span"),
    [
        ("g", "device", "'device' cannot be the name of an input here.", "device"),
        ("g", "zip", "'zip' cannot be the name of an input here.", "zip"),
        ("g", "grad_q", "'grad_q' cannot be the name of an input here.", "grad_q"),
        ("K", "dtype", "'dtype' cannot be the name of an axis here.", "dtype"),
        ("H", "sequences", "'sequences' cannot be the name of an axis here.", "sequences"),
        ("o", "results", "'results' cannot be the name of an output here.", "results"),
        ("demo", "zip", "'zip' cannot be the name of an operator here.", "zip"),
    ],
)
def test_names_that_the_file_needs(old, new, message, span):
    text = re.sub(rf"\b{old}\b", new, DEMO)
    assert refused(text) == (message, span)


@pytest.mark.parametrize("name", ["c", "t", "s", "x", "T", "B", "step_size", "gate"])
def test_ordinary_names_stay(name):
    text = DEMO.replace("g:", f"{name}:").replace("(g)", f"({name})")
    compile_spec(parse_spec(text, "demo.yaml"), find_gpu("h100"))


# The rule itself --------------------------------------------------------------------------------

SPAN = Span("f.yaml", 1, 1, 1, "x")
WORDS = (
    StandIn("zz0zz", "q", "input", SPAN),
    StandIn("zz1zz", "row", "input", SPAN),
    StandIn("zz2zz", "max", "operator", SPAN),
)


def clash(stand_in: str, source: str | None = None) -> str | None:
    """The label of the error, or None; ``source`` is as the words say if it is not given."""
    plain = stand_in
    for w in WORDS:
        plain = plain.replace(w.word, w.name)
    try:
        check_clashes(source or plain, stand_in, WORDS)
    except SpecError as error:
        return f"{error.message} {error.label}"
    return None


def test_a_local_variable_and_an_argument():
    text = "def f(zz0zz, zz1zz):\n    row = 1\n    return row + zz0zz + zz1zz\n"
    assert "the generated file uses 'row' for something else" in str(clash(text))


def test_an_escaped_name_is_no_clash():
    text = "def f(zz1zz):\n    row = 1\n    return row + zz1zz\n"
    assert clash(text, text.replace("zz1zz", "row_")) is None


def test_other_scopes_do_not_matter():
    text = (
        "def f(zz1zz):\n    return zz1zz\ndef g(x):\n    row = x\n    return [row for row in x]\n"
    )
    assert clash(text) is None


def test_two_parameters_that_become_one():
    assert "'row' cannot" in str(clash("def f(row, zz1zz):\n    return 1\n"))


def test_a_name_made_from_another():
    words = (*WORDS, StandIn("zz3zz", "d_q", "state", SPAN))
    stand_in = "def f(zz3zz):\n    d_zz0zz = 1\n    return d_zz0zz + zz3zz\n"
    with pytest.raises(SpecError, match="'d_q' cannot be the name of a state here"):
        check_clashes("def f(d_q):\n    d_q = 1\n    return d_q + d_q\n", stand_in, words)


def test_an_operator_that_hides_a_builtin():
    text = "def zz2zz(x):\n    return x\ndef f(x):\n    return max(x)\n"
    assert "'max' cannot be the name of an operator" in str(clash(text))
    assert clash("def zz2zz(x):\n    return x\ndef f(max):\n    return max\n") is None


def test_sizes_are_a_scope_too():
    text = 'def f(sizes):\n    return sizes["row"] + sizes["zz1zz"]\n'
    assert "'row' cannot" in str(clash(text))
