"""Templates hold structure and Triton text only; every decision was made in the plan.

One variable, ``plan``; ``if`` on a ready boolean, ``for`` over a tuple of the plan, two filters.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from jinja2 import meta, nodes

from seqgen._resources import templates_dir
from seqgen.render.environment import environment

TEMPLATES = sorted(templates_dir().rglob("*.jinja"))
FILTERS = {"code", "length"}
LOGIC = (
    *(nodes.Assign, nodes.AssignBlock, nodes.BinExpr, nodes.UnaryExpr, nodes.Compare),
    *(nodes.CondExpr, nodes.Concat, nodes.Test, nodes.Call),
)
DEEPEST = 2


def violations(text: str) -> Iterator[str]:
    """``line: what is wrong`` for every broken rule."""
    tree = environment().parse(text)
    for name in sorted(meta.find_undeclared_variables(tree) - {"plan"}):
        yield f"0: unknown variable '{name}'"
    for node in tree.find_all((*LOGIC, nodes.Extends, nodes.Block, nodes.Include)):
        yield f"{node.lineno}: {type(node).__name__}"
    for node in tree.find_all(nodes.Filter):
        if node.name not in FILTERS:
            yield f"{node.lineno}: filter '{node.name}'"
    yield from _too_deep(tree, 0)


def _too_deep(node: nodes.Node, depth: int) -> Iterator[str]:
    if isinstance(node, nodes.If | nodes.For):
        depth += 1
        if depth > DEEPEST:
            yield f"{node.lineno}: {depth} blocks inside each other"
    for child in node.iter_child_nodes():
        yield from _too_deep(child, depth)


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.name)
def test_template_has_no_logic(path: Path) -> None:
    assert list(violations(path.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("{{ plan.a }}{{ other }}", ["0: unknown variable 'other'"]),
        ("{% set a = plan.b %}", ["1: Assign"]),
        ("\n{{ plan.a + 1 }}", ["2: Add"]),
        ("{% if plan.a == 1 %}{% endif %}", ["1: Compare"]),
        ("{% if not plan.a %}{% endif %}", ["1: Not"]),
        ("{{ plan.a if plan.b else plan.c }}", ["1: CondExpr"]),
        ("{{ plan.a ~ plan.b }}", ["1: Concat"]),
        ("{{ plan.a | upper }}", ["1: filter 'upper'"]),
        ("{% if plan.a is defined %}{% endif %}", ["1: Test"]),
        ("{{ plan.a() }}", ["1: Call"]),
        ("{% include 'x' %}", ["1: Include"]),
        (
            "{% for a in plan.b %}{% if a.c %}{% if a.d %}{% endif %}{% endif %}{% endfor %}",
            ["1: 3 blocks inside each other"],
        ),
        ("{% for a in plan.b %}{{ a | code(indent=4) }}{% endfor %}", []),
    ],
)
def test_each_rule_is_seen(text: str, found: list[str]) -> None:
    assert list(violations(text)) == found


def test_every_kernel_template_is_rendered_by_a_plan() -> None:
    """A template that no plan names would never be seen by any other test."""
    plans = "\n".join(
        path.read_text(encoding="utf-8")
        for folder in ("plan", "render")
        for path in (Path(__file__).parents[2] / "seqgen" / folder).glob("*.py")
    )
    assert [p.name for p in TEMPLATES if p.name not in plans] == []
