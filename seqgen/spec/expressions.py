"""Parses one expression of the language with Python's own grammar, and never evaluates it.

Only a few node kinds pass, and length and depth are bounded, so a spec from a stranger cannot
make the compiler do more than read it.
"""

from __future__ import annotations

import ast
import math
import re

from seqgen.errors import Span, SpecError, did_you_mean
from seqgen.spec.functions import FUNCTIONS
from seqgen.spec.model import Expression, place

MAX_LENGTH = 2000
MAX_DEPTH = 60

_OPERATORS: tuple[type[ast.AST], ...] = (
    *(ast.Add, ast.Sub, ast.Mult, ast.Div, ast.Pow, ast.Mod, ast.USub, ast.UAdd, ast.Not),
    *(ast.And, ast.Or, ast.Lt, ast.LtE, ast.Gt, ast.GtE, ast.Eq, ast.NotEq),
)

_FORBIDDEN_CHARACTERS = {
    "@": "Products of axes are written with names: sum(k * S, K).",
    "[": "There are no indices: axes have names, and sum(x, K) contracts one.",
    "]": "There are no indices: axes have names, and sum(x, K) contracts one.",
    "{": "Use round brackets.",
    "}": "Use round brackets.",
    "^": "A power is written x ** 2.",
    "&": "Write 'and'.",
    "|": "Write 'or'.",
    "~": "Write 'not'.",
    ";": "One expression stands on one line.",
    "#": "Write the comment outside the expression.",
    "\\": "An expression may simply go on in the next line.",
    "'": "There are no strings in the language.",
    '"': "There are no strings in the language.",
}

_NODE_WORDS: dict[type[ast.AST], tuple[str, str]] = {
    ast.Attribute: ("A dot", "Functions stand on their own: write exp(x), not torch.exp(x)."),
    ast.Tuple: ("A tuple", "Write one expression; several axes go into one call: sum(x, K, V)."),
    ast.Lambda: ("'lambda'", "Give the value a name in 'let' or 'update'."),
    ast.NamedExpr: ("':='", "Give the value a name in 'let' or 'update'."),
    ast.Starred: ("'*' in front of an argument", "List the arguments one by one."),
    ast.FloorDiv: ("'//'", "Use '/'."),
    ast.Is: ("'is'", "Use '=='."),
    ast.IsNot: ("'is not'", "Use '!='."),
    ast.In: ("'in'", ""),
    ast.NotIn: ("'not in'", ""),
    ast.LShift: ("'<<'", ""),
    ast.RShift: ("'>>'", ""),
    ast.Await: ("'await'", ""),
    ast.Yield: ("'yield'", ""),
    ast.YieldFrom: ("'yield'", ""),
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
    _check_characters(text, places)
    _check_brackets(text, places)
    tree = _parse(text, places)
    expression = Expression(text, tree, span, lines)
    _check_node(expression, tree, 1)
    return expression


def _check_characters(text: str, places: tuple[Span, ...]) -> None:
    for match in re.finditer(r"[^\w\s+\-*/%().,=<>!:]|[^\x20-\x7e]", text):
        character = match.group()
        if character.isalpha():
            message = f"Names are written with the letters a to z: {character!r} is none of them."
        else:
            message = f"{character!r} is not part of the language."
        raise SpecError(
            message,
            place(places, match.start(), match.end()),
            hint=_FORBIDDEN_CHARACTERS.get(character, ""),
        )


def _check_brackets(text: str, places: tuple[Span, ...]) -> None:
    """Also bounds the depth, before Python's parser has to."""
    opened: list[int] = []
    for column, character in enumerate(text):
        if character == "(":
            opened.append(column)
            if len(opened) > MAX_DEPTH:
                raise _too_deep(place(places, column, column + 1))
        elif character == ")":
            if not opened:
                raise SpecError("This bracket closes nothing.", place(places, column, column + 1))
            opened.pop()
    if opened:
        raise SpecError("This bracket is never closed.", place(places, opened[-1], opened[-1] + 1))


def _too_deep(span: Span) -> SpecError:
    return SpecError(
        f"An expression may be nested at most {MAX_DEPTH} deep.",
        span,
        hint="Give its parts names in 'let' or 'update'.",
    )


def _parse(text: str, places: tuple[Span, ...]) -> ast.expr:
    try:
        return ast.parse(text, mode="eval").body
    except SyntaxError as error:
        column = min(max((error.offset or 1) - 1, 0), len(text))
    except (RecursionError, MemoryError):
        raise _too_deep(place(places, 0, 1)) from None
    if not text[column:].strip():
        raise SpecError("The expression ends too early.", place(places, len(text), len(text) + 1))
    lone = re.match(r"=(?!=)", text[column:])
    if lone:
        raise SpecError(
            "'=' stands only once in a line, behind the name that is assigned.",
            place(places, column, column + 1),
            hint="A comparison is written '=='.",
        )
    raise SpecError(
        "The expression cannot be read from here on.", place(places, column, column + 1)
    )


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
        if isinstance(node.func, ast.Attribute):
            raise _foreign(node.func, span)
        raise SpecError("Only a function can be called.", span, hint="A product needs a '*'.")
    for keyword in node.keywords:
        if keyword.arg is None:
            raise SpecError("'**' in front of an argument is not part of the language.", span)
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
    if isinstance(node.value, bool) or not isinstance(node.value, int | float):
        raise SpecError(
            f"{node.value!r} is not a number.", span, hint="Numbers are real: 0.5, 1e-6."
        )
    try:
        finite = math.isfinite(float(node.value))
    except OverflowError:
        finite = False
    if not finite:
        raise SpecError("This number is too large.", span, hint="Infinity is written 'inf'.")


def _foreign(node: ast.AST, span: Span) -> SpecError:
    words, hint = _NODE_WORDS.get(type(node), ("This", ""))
    return SpecError(f"{words} is not part of the language.", span, hint=hint)
