"""The parts of a generated file for its reader: banners, and the list of contents at the top."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator

from seqgen.plan.schedule import KernelPart, SchedulePlan
from seqgen.render.environment import render

RULE = "# " + "-" * 92
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
    """The text of the kernels under their headings, chunkwise ones first."""
    groups = (
        (CHUNKWISE, [part for part in schedule.kernels if not _serial(part)]),
        (SERIAL, [part for part in schedule.kernels if _serial(part)]),
    )
    for title, parts in groups:
        for number, part in enumerate(parts):
            if number == 0:
                yield banner(title)
            if number == 0 or parts[number - 1].name != part.name:
                yield heading(_CALLS if part.template.endswith(_CALLS_END) else part.name)
            yield render(part.template, part.plan)


def contents(schedule: SchedulePlan, kernel_text: str, public: str) -> tuple[str, ...]:
    """Lines for the docstring of the module: its parts in their order."""
    lines = [
        "SPEC, CONFIGS: what the operator is, and what each kernel runs with",
        "Helpers: of the functions on the host, then of the kernels",
    ]
    if any(not _serial(part) for part in schedule.kernels):
        lines.append(CHUNKWISE)
    for function, launches in _calls(kernel_text):
        lines += _wrapped(f"{function} runs {', '.join(launches)}", 4)
    serial = ", ".join(part.name for part in schedule.kernels if _serial(part))
    lines += [
        SERIAL,
        f"    {serial}",
        "Reference: the equations in PyTorch, also in float64",
        "PyTorch operators: opaque to torch.compile, with their own gradients",
        *_wrapped(f"Public functions: {public}", 0),
    ]
    return tuple(lines)


def _serial(part: KernelPart) -> bool:
    return part.name.startswith("recurrent_")


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
