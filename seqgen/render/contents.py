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


def banner(title: str) -> str:
    """The heading of a part."""
    return f"{RULE}\n# {title}\n{RULE}\n"


def heading(title: str) -> str:
    """The heading of a piece of a part."""
    return f"# ---- {title}\n"


def kernel_pieces(schedule: SchedulePlan) -> Iterator[str]:
    """The text of the kernels under their headings, in the order of their groups."""
    texts = render_parts(schedule.kernels)
    for title, members in _groups(schedule).items():
        yield banner(title)
        before = ""
        for member in members:
            part = schedule.kernels[member]
            if part.name != before:
                yield heading(_CALLS if _has_calls(part) else part.name)
            yield texts[member]
            before = part.name


def _groups(schedule: SchedulePlan) -> dict[str, list[int]]:
    """The titles that there are, with the places of their parts among the schedule's."""
    groups: dict[str, list[int]] = {FIRST: [], CHUNKWISE: [], SERIAL: []}
    for number, part in enumerate(schedule.kernels):
        serial = part.name.startswith("recurrent_")
        groups[FIRST if part.stages else SERIAL if serial else CHUNKWISE].append(number)
    return {title: members for title, members in groups.items() if members}


def _has_calls(part: KernelPart) -> bool:
    return part.template.endswith("_calls.py.jinja")


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
    for title, members in _groups(schedule).items():
        parts = [schedule.kernels[member] for member in members]
        kernels = dict.fromkeys(part.name for part in parts if not _has_calls(part))
        lines += [title, *(calls if title == CHUNKWISE else _wrapped(", ".join(kernels), 4))]
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
