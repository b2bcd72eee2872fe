"""Names of a stage's kernels: those of their templates, with the stage's prefix.

A file may have the same template several times, for the stages of an operator and for the whole.
Prefixes are put where the text is ready, so that no template and no plan knows of stages.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence

from seqgen.plan.schedule import KernelPart
from seqgen.render.environment import render

OPERATOR = "operator"
"""The configuration that all kernels of a file share."""


def render_parts(parts: Sequence[KernelPart]) -> list[str]:
    """The text of each part; all names that parts of a stage define have its prefix."""
    texts = [render(part.template, part.plan) for part in parts]
    deepest = max((len(part.stages) for part in parts), default=0)
    for depth in range(deepest, 0, -1):  # inner stages first: the outer ones contain them
        for stages in {part.stages[:depth] for part in parts if len(part.stages) >= depth}:
            members = [n for n, part in enumerate(parts) if part.stages[:depth] == stages]
            found = _prefixed([texts[n] for n in members], stages[-1])
            for n, text in zip(members, found, strict=True):
                texts[n] = text
    return texts


def _prefixed(texts: Sequence[str], prefix: str) -> list[str]:
    """``texts``, with the prefix in the names that they define.

    All words are replaced, so an argument or a tensor of the user must not have such a name.
    """
    names = [n for text in texts for n in re.findall(r"^def (\w+)", text, re.MULTILINE)]
    bound = {n for text in texts for n in _bound(text)} & set(names)
    assert not bound, f"{', '.join(sorted(bound))} also name a value in stage '{prefix}'"
    words = re.compile(rf"\b({'|'.join(names)})\b")

    def name(match: re.Match[str]) -> str:
        start, rest = re.fullmatch(r"(launch_|_)?(\w+)", match[1]).groups("")  # type: ignore[union-attr]
        return f"{start}{prefix}_{rest}"

    def config(match: re.Match[str]) -> str:
        return match[0] if match[2] == OPERATOR else f"{match[1]}{prefix}_{match[2]}"

    return [re.sub(r'(\b_config\(\s*")(\w+)', config, words.sub(name, text)) for text in texts]


def _bound(text: str) -> Iterator[str]:
    """Names of arguments and variables."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
