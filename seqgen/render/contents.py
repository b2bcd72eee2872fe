"""The parts of a generated file for its reader: banners, and the list of contents at the top."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator

from seqgen.plan.schedule import KernelPart, SchedulePlan
from seqgen.render.stages import render_parts

RULE = "# " + "-" * 92
FIRST = "First stage: what later states take of earlier ones, for all tokens"
CHUNKWISE = "Chunkwise kernels: matrix products on chunks of tokens"
SERIAL = "Token-serial kernels: token after token, each equation above its lines"
_CALLS = "Which kernels a call runs, and in which order"
_CALLS_END = "_calls.py.jinja"


def banner(title: str) -> str:
    """The heading of a part."""
    return f"{RULE}\n# {title}\n{RULE}\n"


def heading(title: str) -> str:
    """The heading of a piece of a part."""
    return f"# ---- {title}\n"


def kernel_pieces(schedule: SchedulePlan) -> Iterator[str]:
    """The text of the kernels under their headings, in the order of their groups."""
    texts = dict(zip(schedule.kernels, render_parts(schedule.kernels), strict=True))
    for title, parts in _groups(schedule):
        yield banner(title)
        for number, part in enumerate(parts):
            if number == 0 or parts[number - 1].name != part.name:
                yield heading(_CALLS if part.template.endswith(_CALLS_END) else part.name)
            yield texts[part]


def _groups(schedule: SchedulePlan) -> Iterator[tuple[str, list[KernelPart]]]:
    """Titles with their parts; a group has at least one."""
    named: dict[str, list[KernelPart]] = {FIRST: [], CHUNKWISE: [], SERIAL: []}
    for part in schedule.kernels:
        serial = part.name.startswith("recurrent_")
        named[FIRST if part.stages else SERIAL if serial else CHUNKWISE].append(part)
    return ((title, parts) for title, parts in named.items() if parts)


def contents(schedule: SchedulePlan, kernel_text: str, public: str) -> tuple[str, ...]:
    """Lines for the docstring of the module: its parts in their order."""
    lines = [
        "SPEC, CONFIGS: what the operator is, and what each kernel runs with",
        "Helpers: of the functions on the host, then of the kernels",
    ]
    calls = [
        line
        for function, launches in _calls(kernel_text)
        for line in _wrapped(f"{function} runs {', '.join(launches)}", 4)
    ]
    for title, parts in _groups(schedule):
        lines.append(title)
        kernels = [p.name for p in parts if not p.template.endswith(_CALLS_END)]
        lines += calls if title == CHUNKWISE else _wrapped(", ".join(kernels), 4)
    lines += [
        "Reference: the equations in PyTorch, also in float64",
        "PyTorch operators: opaque to torch.compile, with their own gradients",
        *_wrapped(f"Public functions: {public}", 0),
    ]
    return tuple(lines)


def _calls(kernel_text: str) -> Iterator[tuple[str, list[str]]]:
    """The functions that run several kernels, each with the kernels in order of their launches."""
    for function in re.split(r"^(?=\S)", kernel_text, flags=re.MULTILINE):
        name = re.match(r"def (_\w+_(?:forward|backward))\(", function)
        launches = dict.fromkeys(re.findall(r"\blaunch_(\w+)\(", function))
        if name is not None and launches:
            yield name[1], list(launches)


def _wrapped(text: str, indent: int) -> list[str]:
    return textwrap.wrap(
        text,
        92,
        initial_indent=" " * indent,
        subsequent_indent=" " * (indent + 4),
        break_long_words=False,
        break_on_hyphens=False,
    )
