"""Parses one expression of the language with Python's own grammar, and never evaluates it.

Only a few node kinds pass, and length and depth are bounded, so a spec from a stranger cannot
make the compiler do more than read it.
"""

from __future__ import annotations

import ast
import math
import re

from seqgen.errors import Span, SpecError, did_you_mean
from seqgen.spec.checks import check_name
from seqgen.spec.functions import FUNCTIONS
from seqgen.spec.model import Assign, Expression, place
from seqgen.spec.tokens import check_tokens

MAX_LENGTH = 2000
MAX_DEPTH = 60

_OPERATORS: tuple[type[ast.AST], ...] = (
    *(ast.Add, ast.Sub, ast.Mult, ast.Div, ast.Pow, ast.Mod, ast.USub, ast.UAdd, ast.Not),
    *(ast.And, ast.Or, ast.Lt, ast.LtE, ast.Gt, ast.GtE, ast.Eq, ast.NotEq),
)

_FOREIGN: dict[type[ast.AST], tuple[str, str]] = {
    ast.Tuple: ("A list of values", "Several axes go into one call: sum(x, K, V)."),
    ast.FloorDiv: ("'//'", "Use '/'."),
}


def parse_expression(text: str, span: Span, lines: tuple[Span, ...] = ()) -> Expression:
    """The syntax tree of ``text``, which stands at ``span``.

    Args:
        text: the expression, without surrounding blanks or line breaks.
        span: covers ``text``, or its first line.
        lines: if it was written over several lines, the span of each; ``text`` then joins them
            by one space each.

    Raises:
        SpecError: at the smallest place that is wrong.
    """
    places = lines or (span,)
    if not text:
        raise SpecError("There is no expression here.", span, label="nothing to compute")
    if len(text) > MAX_LENGTH:
        raise SpecError(
            f"An expression may have at most {MAX_LENGTH} characters; this one has {len(text)}.",
            place(places, 0, 1),
            hint="Give its parts names in 'let' or 'update'.",
        )
    depth = check_tokens(text, places)
    if depth > MAX_DEPTH:
        raise _too_deep(place(places, 0, 1))
    tree = _parse(text, places)
    expression = Expression(text, tree, span, lines)
    _check_node(expression, tree, 1)
    return expression


def parse_lines(lines: tuple[Span, ...]) -> Expression:
    """The syntax tree of the expression that fills ``lines``."""
    text = " ".join(line.text for line in lines)
    return parse_expression(text, lines[0], lines if len(lines) > 1 else ())


def parse_statement(lines: tuple[Span, ...]) -> Assign:
    """The assignment ``name = expression`` that fills ``lines``; '=' stands in the first one.

    Raises:
        SpecError: at the smallest place that is wrong.
    """
    first = lines[0]
    match = re.match(r"([^=<>!()+*/%,-]*?)\s*=(?!=)\s*", first.text)
    if match is None:
        raise SpecError("A statement is 'name = expression'.", first, hint="Write 'S = ...'.")
    name, start = match[1], match.end()
    target = first.inside(0, len(name))
    check_name(name, target, "The target of an assignment")
    rest = first.inside(start, first.length - start)
    values = lines[1:] if start == first.length else (rest, *lines[1:])
    if not values:
        raise SpecError("There is no expression here.", rest, label="nothing to compute")
    return Assign(name, parse_lines(values), target)


def _too_deep(span: Span) -> SpecError:
    return SpecError(
        f"An expression may be nested at most {MAX_DEPTH} deep.",
        span,
        hint="Give its parts names in 'let' or 'update'.",
    )


def _parse(text: str, places: tuple[Span, ...]) -> ast.expr:
    try:
        return ast.parse(text, mode="eval").body
    except SyntaxError:
        raise SpecError("This is not an expression.", place(places, 0, len(text))) from None
    except (RecursionError, MemoryError):
        raise _too_deep(place(places, 0, 1)) from None


def _check_node(expression: Expression, node: ast.expr, depth: int) -> None:
    """Raises unless ``node`` and everything below it belong to the language."""
    span = expression.node_span(node)
    if depth > MAX_DEPTH:
        raise _too_deep(span)
    match node:
        case ast.Name():
            operands: list[ast.expr] = []
        case ast.Constant():
            _check_number(node, span)
            operands = []
        case ast.BinOp(left=left, op=operator, right=right):
            _check_operator(operator, span)
            operands = [left, right]
        case ast.UnaryOp(op=operator, operand=operand):
            _check_operator(operator, span)
            operands = [operand]
        case ast.BoolOp(values=operands):
            pass
        case ast.Compare(left=left, ops=comparisons, comparators=comparators):
            for comparison in comparisons:
                _check_operator(comparison, span)
            if len(comparisons) > 1:
                raise SpecError(
                    "Comparisons cannot be chained.", span, hint="Write 'a < b and b < c'."
                )
            operands = [left, *comparators]
        case ast.IfExp(test=test, body=body, orelse=orelse):
            if not isinstance(test, ast.Name):
                raise SpecError(
                    "'if' only asks whether an optional input was given.",
                    expression.node_span(test),
                    label="must be the name of an optional input",
                    hint="Use where(condition, a, b) to choose by value.",
                )
            operands = [body, orelse]
        case ast.Call():
            operands = _check_call(expression, node)
        case _:
            raise _foreign(node, span)
    for operand in operands:
        _check_node(expression, operand, depth + 1)


def _check_call(expression: Expression, node: ast.Call) -> list[ast.expr]:
    """Checks the form of a call and returns its operands."""
    span = expression.node_span(node.func)
    if not isinstance(node.func, ast.Name):
        raise SpecError("Only a function can be called.", span, hint="A product needs a '*'.")
    if node.func.id not in FUNCTIONS:
        hint = did_you_mean(node.func.id, FUNCTIONS)
        raise SpecError(
            f"There is no function '{node.func.id}'.",
            span,
            hint=hint or "A product needs a '*'.",
        )
    return [*node.args, *(keyword.value for keyword in node.keywords)]


def _check_operator(operator: ast.AST, span: Span) -> None:
    if not isinstance(operator, _OPERATORS):
        raise _foreign(operator, span)


def _check_number(node: ast.Constant, span: Span) -> None:
    assert isinstance(node.value, int | float)  # the only constants that pass check_tokens
    try:
        finite = math.isfinite(float(node.value))
    except OverflowError:
        finite = False
    if not finite:
        raise SpecError("This number is too large.", span, hint="Infinity is written 'inf'.")


def _foreign(node: ast.AST, span: Span) -> SpecError:
    words, hint = _FOREIGN.get(type(node), ("This", ""))
    return SpecError(f"{words} is not part of the language.", span, hint=hint)
