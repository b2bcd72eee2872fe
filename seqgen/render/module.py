"""ModulePlan -> the text of one Python file: placed, formatted, and hashed."""

from __future__ import annotations

import ast
import hashlib
import re
import subprocess
from dataclasses import dataclass
from functools import lru_cache

from ruff import find_ruff_bin

from seqgen._resources import templates_dir
from seqgen.errors import SeqgenError
from seqgen.plan.module import ModulePlan
from seqgen.render.contents import contents, heading, kernel_pieces
from seqgen.render.environment import render

PLACEHOLDER = "0" * 64
"""Stands for the content hash while the content is hashed."""


@dataclass(frozen=True)
class GeneratedModule:
    """The finished file of one operator."""

    name: str
    source: str
    spec_hash: str
    content_hash: str
    """Over the whole file with PLACEHOLDER in its stead; also in the namespace of its operators."""


@dataclass(frozen=True)
class _Page:
    """The module template's view: the plan, with its parts already rendered."""

    plan: ModulePlan
    content: str
    exports: str
    contents: tuple[str, ...]
    first_text: str
    helper_text: str
    kernel_text: str
    reference_text: str
    op_text: str
    public_text: str

    def __getattr__(self, name: str) -> object:
        return getattr(self.plan, name)


def render_module(plan: ModulePlan) -> GeneratedModule:
    """The file that ``plan`` describes; the same plan gives the same bytes.

    Raises:
        SeqgenError: if the templates gave something that is not Python (a defect of seqgen).
    """
    op = plan.op
    public = [op.name, f"{op.name}_reference"]
    public_text = render("public.py.jinja", op)
    if op.has_step:
        public.insert(1, f"{op.name}_step")
        public_text += "\n\n" + render("step.py.jinja", op)
    exports = ["CONFIGS", "SPEC", *([op.state_class] if op.several_states else []), *public]
    kernel_text = "\n\n".join(kernel_pieces(plan.schedule))
    helper_text = "\n\n".join(
        helper_piece(name)
        for name in ("select", "tracing", "arguments", "compile", *plan.schedule.helpers)
    )
    page = _Page(
        plan=plan,
        content=PLACEHOLDER,
        exports=", ".join(f'"{name}"' for name in exports),
        contents=contents(plan.schedule, helper_text, kernel_text, ", ".join(public)),
        first_text=helper_source("prepare"),
        helper_text=helper_text,
        kernel_text=kernel_text,
        reference_text=render("reference.py.jinja", op),
        op_text="\n\n".join(render(name, op) for name in ("op.py.jinja", "autograd.py.jinja")),
        public_text=public_text,
    )
    source = format_source(render("module.py.jinja", page), plan.name)
    content_hash = hashlib.sha256(source.encode()).hexdigest()
    source = source.replace(PLACEHOLDER, content_hash)
    return GeneratedModule(plan.name, source, plan.spec_hash, content_hash)


@lru_cache
def helper_piece(name: str) -> str:
    """A file of templates/helpers under the first line of its docstring."""
    tree = ast.parse((templates_dir() / "helpers" / f"{name}.py").read_text())
    title = (ast.get_docstring(tree) or name).split("\n")[0].rstrip(".")
    return f"{heading(title)}\n\n{helper_source(name)}"


@lru_cache
def helper_source(name: str) -> str:
    """A file of templates/helpers without its docstring, imports and notes to linters."""
    text = (templates_dir() / "helpers" / f"{name}.py").read_text()
    body = [
        node
        for node in ast.parse(text).body
        if not isinstance(node, ast.Import | ast.ImportFrom)
        and not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))
    ]
    lines = text.split("\n")
    decorated = getattr(body[0], "decorator_list", [])
    start = min([body[0].lineno, *(d.lineno for d in decorated)])
    while lines[start - 2].startswith("#"):
        start -= 1
    source = "\n".join(lines[start - 1 :]).strip("\n") + "\n"
    # Names that a helper lacks are there in the generated file. Reasons in brackets stay.
    return re.sub(r"  # noqa: \w+(?: \((.*)\))?$", _reason, source, flags=re.MULTILINE)


def _reason(note: re.Match[str]) -> str:
    return f"  # {note[1]}" if note[1] else ""


def format_source(text: str, name: str) -> str:
    """``text`` as ``ruff format`` lays it out; checked to be Python first."""
    try:
        ast.parse(text)
    except SyntaxError as error:
        lines = text.split("\n")
        at = error.lineno or 1
        around = "\n".join(
            f"  {i}: {lines[i - 1]}" for i in range(max(1, at - 3), min(len(lines), at + 3))
        )
        raise SeqgenError(f"The templates gave invalid Python for '{name}':\n{around}") from error
    command = [find_ruff_bin(), "format", "--isolated", "-q"]
    command += ["--line-length", "100", "--stdin-filename", f"{name}.py", "-"]
    try:
        done = subprocess.run(command, input=text, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise SeqgenError(f"'ruff format' failed for '{name}': {error}") from error
    return done.stdout
