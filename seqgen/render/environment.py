"""The Jinja environment of all templates: strict, and with one filter."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

import jinja2

from seqgen._resources import templates_dir


def code(lines: str | Iterable[str], indent: int = 0) -> str:
    """Lines of source at an absolute indentation; empty lines stay empty."""
    if isinstance(lines, str):
        lines = lines.split("\n")
    return "\n".join(" " * indent + line if line else "" for line in lines)


@lru_cache(maxsize=1)
def environment() -> jinja2.Environment:
    """Undefined names are errors; tags stand on lines of their own and leave no trace."""
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(templates_dir()),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # the output is Python, not markup
    )
    made.filters["code"] = code
    return made


def render(template: str, plan: object) -> str:
    """The text of one template; ``plan`` is all that it sees."""
    return environment().get_template(template).render(plan=plan)
