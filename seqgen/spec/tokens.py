"""Finds the first token of an expression that cannot stand where it stands.

Python's parser would refuse these texts too, but the place and wording of its errors change with
its version and speak of Python. Operands and operators must alternate; that is all that is
checked here.
"""

from __future__ import annotations

import keyword
import re

from seqgen.errors import Span, SpecError
from seqgen.spec.model import place

_TOKEN = re.compile(
    r"(?P<number>(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?)|(?P<word>[A-Za-z_]\w*)"
    r"|(?P<operator>\*\*|//|<=|>=|==|!=|[-+*/%<>])|(?P<mark>[(),=])",
    re.ASCII,
)

_HINTS = {
    **dict.fromkeys("[]", "There are no indices: axes have names, and sum(x, K) contracts one."),
    **dict.fromkeys("{}", "Use round brackets."),
    **dict.fromkeys("'\"", "There are no strings in the language."),
    "@": "Products of axes are written with names: sum(k * S, K).",
    "^": "A power is written x ** 2.",
    "&": "Write 'and'.",
    "|": "Write 'or'.",
    "~": "Write 'not'.",
    "!": "Write 'not'.",
    ";": "One expression stands on one line.",
    "#": "Write the comment outside the expression.",
    "\\": "An expression may simply go on in the next line.",
    ".": "Functions stand on their own: write exp(x), not torch.exp(x).",
}

_PREFIXES = ("+", "-", "not")
_WORD_OPERATORS = ("and", "or", "not", "if", "else")


def check_tokens(text: str, places: tuple[Span, ...]) -> int:
    """The depth of the brackets in ``text``.

    Raises:
        SpecError: at the first token that is unknown or stands in a wrong place.
    """
    position, depth, word, awaits_operand = 0, 0, "", True
    opened: list[tuple[int, bool]] = []  # place of a bracket, and whether it is a call's
    while position < len(text):
        if text[position] == " ":
            position += 1
            continue
        before, match = word, _TOKEN.match(text, position)
        if match is None:
            raise _unknown(text[position], place(places, position, position + 1))
        word = match.group()
        start, position = position, match.end()
        span = place(places, start, position)
        is_value = match["number"] is not None or (
            match["word"] is not None and word not in _WORD_OPERATORS
        )
        if match["number"] is not None and re.match(r"\w", text[position:]):
            raise _missing_operator(place(places, position, position + 1))
        if is_value or (word == "not" and not awaits_operand):
            if keyword.iskeyword(word) and word != "not":
                raise SpecError(f"'{word}' is not part of the language.", span)
            if not awaits_operand:
                raise _missing_operator(span)
            awaits_operand = False
        elif word == "(":
            is_call = not awaits_operand
            opened.append((start, is_call))
            depth = max(depth, len(opened))
            awaits_operand = True
        elif word == ")":
            if not opened:
                raise SpecError("This bracket closes nothing.", span)
            is_empty_call = before == "(" and opened[-1][1]
            after_comma = before == "," and opened[-1][1]
            if awaits_operand and not (is_empty_call or after_comma):
                raise SpecError("An operand is missing here.", span)
            opened.pop()
            awaits_operand = False
        elif awaits_operand and word not in _PREFIXES:
            raise SpecError("An operand is missing here.", span, label=f"in front of '{word}'")
        elif word == "=" and not (opened and opened[-1][1]):
            raise SpecError(
                "'=' stands only once in a statement, behind the name that is assigned.",
                span,
                hint="A comparison is written '=='.",
            )
        elif word == "," and not opened:
            raise SpecError(
                "A comma stands only between the arguments of a function.",
                span,
                hint="Write one expression for each name.",
            )
        else:
            awaits_operand = True
    if opened:
        raise SpecError(
            "This bracket is never closed.", place(places, opened[-1][0], opened[-1][0] + 1)
        )
    if awaits_operand:
        raise SpecError("The expression ends too early.", place(places, len(text), len(text) + 1))
    return depth


def _missing_operator(span: Span) -> SpecError:
    return SpecError("An operator is missing here.", span, hint="A product is written with '*'.")


def _unknown(character: str, span: Span) -> SpecError:
    if character.isalpha():
        message = f"Names are written with the letters a to z, without {character!r}."
    else:
        message = f"{character!r} is not part of the language."
    return SpecError(message, span, hint=_HINTS.get(character, ""))
