"""A plan as an outline for ``seqgen build --emit plan``: one field a line, code as it is placed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from types import FunctionType

from seqgen.plan.schedule import SchedulePlan


def show_plan(schedule: SchedulePlan) -> str:
    """The outline of a schedule; the same schedule gives the same text."""
    return "\n".join([type(schedule).__name__, *_fields(schedule, "  ", {})])


def _fields(plan: object, indent: str, seen: dict[int, str]) -> Iterator[str]:
    """``name: value`` of every field; kernels share plans, and the second time names the first."""
    assert is_dataclass(plan)
    for field in fields(plan):
        value = getattr(plan, field.name)
        if is_dataclass(value) and id(value) in seen:
            yield f"{indent}{field.name}: {type(value).__name__} of {seen[id(value)]}, above"
            continue
        if is_dataclass(value):
            seen[id(value)] = str(getattr(plan, "name", field.name))
        yield from _value(f"{indent}{field.name}:", value, indent, seen)


def _value(head: str, value: object, indent: str, seen: dict[int, str]) -> Iterator[str]:
    inner = indent + "  "
    if is_dataclass(value):
        yield f"{head} {type(value).__name__}"
        yield from _fields(value, inner, seen)
    elif isinstance(value, Mapping):
        yield f"{head} {', '.join(f'{key}={item}' for key, item in value.items())}".rstrip()
    elif isinstance(value, tuple) and any(isinstance(item, str) for item in value):
        yield head
        yield from (f"{inner}{line}".rstrip() for item in value for line in str(item).split("\n"))
    elif isinstance(value, tuple) and any(is_dataclass(item) for item in value):
        yield head
        for item in value:
            yield from _value(f"{inner}-", item, inner, seen)
    elif isinstance(value, str) and "\n" in value:
        yield head
        yield from (f"{inner}{line}".rstrip() for line in value.split("\n"))
    elif isinstance(value, FunctionType):
        yield f"{head} {value.__name__}"
    elif isinstance(value, tuple):
        yield f"{head} {', '.join(map(str, value))}".rstrip()
    else:
        yield f"{head} {value}".rstrip()
