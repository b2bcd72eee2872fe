"""A spec as plain data, so that two of them can be compared without their places."""

import ast
import dataclasses

from seqgen.errors import Span


def plain(value):
    """``value`` with dataclasses as tuples, trees as text, and no spans."""
    if isinstance(value, ast.AST):
        return ast.dump(value)
    if dataclasses.is_dataclass(value):
        return {
            field.name: plain(getattr(value, field.name))
            for field in dataclasses.fields(value)
            if field.name
            not in ("span", "require_span", "require_schedule_span", "lines", "origin")
        }
    if isinstance(value, tuple):
        return tuple(plain(item) for item in value)
    assert not isinstance(value, Span)
    return value
