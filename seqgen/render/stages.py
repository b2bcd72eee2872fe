"""Names of a stage's kernels: those of their templates, with the stage's prefix.

A file may have the same template several times, for the stages of an operator and for the whole.
Prefixes are put where the text is ready, so that no template and no plan knows of stages.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

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
    names = [n for text in texts for n in re.findall(r"^def (\w+)", text, re.MULTILINE)]
    words = re.compile(rf"\b({'|'.join(names)})\b")

    def name(match: re.Match[str]) -> str:
        start, rest = re.fullmatch(r"(launch_|_)?(\w+)", match[1]).groups("")  # type: ignore[union-attr]
        return f"{start}{prefix}_{rest}"

    def config(match: re.Match[str]) -> str:
        return match[0] if match[2] == OPERATOR else f"{match[1]}{prefix}_{match[2]}"

    return [re.sub(r'(\b_config\(\s*")(\w+)', config, words.sub(name, text)) for text in texts]
