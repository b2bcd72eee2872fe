"""Expressions: what passes, its tree, and the place of every node."""

import ast

import pytest

from seqgen.errors import Span, SpecError
from seqgen.spec.expressions import MAX_DEPTH, MAX_LENGTH, parse_expression, parse_lines
from seqgen.spec.functions import FUNCTIONS


def parse(text: str):
    return parse_expression(text, Span("f.yaml", 3, 5, len(text), "    " + text))


@pytest.mark.parametrize(
    "text",
    [
        "exp(g) * S + beta * k * (v - sum(k * S, K))",
        "q * K ** -0.5",
        "-x + +y / 2.5e-3 % 3",
        "where(a < b and not c >= d or e != 1, -inf, 0)",
        "(sum(h * C, N) + skip * u) * (silu(z) if z else 1)",
        "l2norm(k, K, eps=1e-6)",
        "rename(k, K=V)",
        "rotary(k, N, theta, R, pairs=halves)",
        "position() % 16 == 0",
        "sum(x, K, V,)",
        ".5 + 5.",
    ],
)
def test_the_language_passes_as_python_reads_it(text):
    assert ast.dump(parse(text).tree) == ast.dump(ast.parse(text, mode="eval").body)


def test_nodes_know_their_place():
    text = "exp(g) * sum(k * S, K)"
    expression = parse(text)
    places = {}
    for node in ast.walk(expression.tree):
        if isinstance(node, ast.expr):
            span = expression.node_span(node)
            places[span.text] = (span.line, span.column)
            assert span.text == ast.unparse(node)
    nodes = [text, "exp(g)", "sum(k * S, K)", "k * S", *("exp", "g", "sum", "k", "S", "K")]
    assert places == {node: (3, 5 + text.index(node)) for node in nodes}


def test_an_expression_over_lines_is_one_text_with_places_in_each_line():
    sources = ["- S = exp(g) *", "      (S", "    + k * v)"]
    lines = (
        Span("f.yaml", 7, 7, 8, sources[0]),
        Span("f.yaml", 8, 7, 2, sources[1]),
        Span("f.yaml", 9, 5, 8, sources[2]),
    )
    expression = parse_lines(lines)
    assert expression.text == "exp(g) * (S + k * v)"
    found = {
        node.id: (expression.node_span(node).line, expression.node_span(node).column)
        for node in ast.walk(expression.tree)
        if isinstance(node, ast.Name)
    }
    assert found == {"exp": (7, 7), "g": (7, 11), "S": (8, 8), "k": (9, 7), "v": (9, 11)}
    assert expression.node_span(expression.tree).text == "exp(g) *"


@pytest.mark.parametrize(
    ("text", "message", "marked"),
    [
        ("(a", "This bracket is never closed.", "("),
        ("f)", "This bracket closes nothing.", ")"),
        ("a b", "An operator is missing here.", "b"),
        ("2a", "An operator is missing here.", "a"),
        ("a not b", "An operator is missing here.", "not"),
        ("a * / b", "An operand is missing here.", "/"),
        ("()", "An operand is missing here.", ")"),
        ("exp(*a)", "An operand is missing here.", "*"),
        ("exp(**a)", "An operand is missing here.", "**"),
        ("a, b", "A comma stands only between the arguments of a function.", ","),
        ("(a, b)", "A list of values is not part of the language.", "(a, b)"),
        ("a = b", "'=' stands only once in a statement", "="),
        ("(a = b)", "'=' stands only once in a statement", "="),
        ("a := b", "':' is not part of the language.", ":"),
        ("torch.exp(a)", "'.' is not part of the language.", "."),
        ("a // b", "'//' is not part of the language.", "a // b"),
        ("a @ b", "'@' is not part of the language.", "@"),
        ("a[0]", "'[' is not part of the language.", "["),
        ("'a'", '"\'" is not part of the language.', "'"),
        ("θ", "Names are written with the letters a to z, without 'θ'.", "θ"),
        ("a\x00b", "'\\x00' is not part of the language.", "\x00"),
        ("lambda", "'lambda' is not part of the language.", "lambda"),
        ("True", "'True' is not part of the language.", "True"),
        ("1j", "An operator is missing here.", "j"),
        ("0x10", "An operator is missing here.", "x"),
        ("1_000", "An operator is missing here.", "_"),
        ("1e999", "This number is too large.", "1e999"),
        ("9" * 400, "This number is too large.", "9" * 400),
        ("a < b < c", "Comparisons cannot be chained.", "a < b < c"),
        ("a if b > 0 else c", "'if' only asks whether", "b > 0"),
        ("a if b", "This is not an expression.", "a if b"),
        ("foo(a)", "There is no function 'foo'.", "foo"),
        ("exp(a)(b)", "Only a function can be called.", "exp(a)"),
        ("2(a)", "Only a function can be called.", "2"),
    ],
)  # fmt: skip
def test_what_is_refused_and_where(text, message, marked):
    with pytest.raises(SpecError) as caught:
        parse(text)
    assert caught.value.message.startswith(message)
    assert caught.value.span.line == 3
    assert caught.value.span.text == marked


@pytest.mark.parametrize(
    "text",
    [
        "(" * (MAX_DEPTH + 1) + "a" + ")" * (MAX_DEPTH + 1),
        "-" * (MAX_LENGTH - 1) + "a",
        "not " * (MAX_LENGTH // 4 - 1) + "a",
        "**".join("a" * (MAX_LENGTH // 3)),
        "+".join("a" * (MAX_LENGTH // 2)),
    ],
)
def test_depth_is_bounded(text):
    with pytest.raises(SpecError, match=f"at most {MAX_DEPTH} deep"):
        parse(text)


def test_length_is_bounded():
    with pytest.raises(SpecError, match=f"at most {MAX_LENGTH} characters"):
        parse("a" * (MAX_LENGTH + 1))
    assert parse("a" * MAX_LENGTH).text == "a" * MAX_LENGTH


def test_signatures_name_their_functions():
    assert all(name == f.signature.split("(")[0] for name, f in FUNCTIONS.items())
    assert FUNCTIONS["rotary"].arguments == ("value", "axis", "value", "axis")
