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
SEGMENTS = "Segments of sequences in parallel: what each makes of the states, then their states"
SERIAL = "Token-serial kernels: token after token, each equation above its lines"
STAGED = "Both stages: the first, then what takes its results"
_CALL = r"_\w+_(?:forward|backward|before)"
"""Names of the functions that run several kernels, or others of these functions."""


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
                calls = ", ".join(name for name, _ in _calls(texts[member]))
                yield heading(f"Order of kernels: {calls}" if _has_calls(part) else part.name)
            yield texts[member]
            before = part.name


def _groups(schedule: SchedulePlan) -> dict[str, list[int]]:
    """The titles that there are, with the places of their parts among the schedule's."""
    groups: dict[str, list[int]] = {t: [] for t in (FIRST, CHUNKWISE, SEGMENTS, STAGED, SERIAL)}
    for number, part in enumerate(schedule.kernels):
        groups[FIRST if part.stages else _title(part)].append(number)
    return {title: members for title, members in groups.items() if members}


def _title(part: KernelPart) -> str:
    if part.name in ("rest_stage", "stages"):
        return STAGED
    begins = {"recurrent_": SERIAL, "scan": SEGMENTS}
    return next(
        (title for start, title in begins.items() if part.name.startswith(start)), CHUNKWISE
    )


def _has_calls(part: KernelPart) -> bool:
    return part.template.endswith("_calls.py.jinja")


def contents(
    schedule: SchedulePlan, helper_text: str, kernel_text: str, public: str
) -> tuple[str, ...]:
    """Lines for the docstring of the module: its parts in their order."""
    small = ", ".join(re.findall(r"^def (\w+)_kernel\(", helper_text, re.MULTILINE))
    lines = [
        "Preparation: what Triton does first, while PyTorch is being imported",
        "SPEC, CONFIGS: what the operator is, and what each kernel runs with",
        "Helpers: of the functions on the host, then of the kernels",
        *_wrapped(f"small kernels: {small}" if small else "", 4),
    ]
    for title, members in _groups(schedule).items():
        text = kernel_text.partition(banner(title))[2].partition(RULE)[0]
        calls = [f"{function} runs {', '.join(runs)}" for function, runs in _calls(text)]
        names = ", ".join(dict.fromkeys(schedule.kernels[member].name for member in members))
        lines += [title, *(line for entry in calls or [names] for line in _wrapped(entry, 4))]
    lines += [
        "Reference: the equations in PyTorch, also in float64",
        "PyTorch operators: opaque to torch.compile, with their own gradients",
        *_wrapped(f"Public functions: {public}", 0),
    ]
    return tuple(lines)


def _calls(text: str) -> Iterator[tuple[str, list[str]]]:
    """The functions that run kernels or each other, with what they run in the order of the text."""
    for function in re.split(r"^(?=\S)", text, flags=re.MULTILINE):
        name = re.match(rf"def ({_CALL})\(", function)
        runs = re.findall(rf"(?<!def )\b(?:launch_(\w+)|({_CALL}))\(", function)
        if name is not None and runs:
            yield name[1], list(dict.fromkeys(kernel or call for kernel, call in runs))


def _wrapped(text: str, indent: int) -> list[str]:
    return textwrap.wrap(
        text,
        92,
        initial_indent=" " * indent,
        subsequent_indent=" " * (indent + 4),
        break_long_words=False,
        break_on_hyphens=False,
    )
