"""A generated file says at its top what is in it, and does what it says."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from seqgen.build import compile_spec, read_spec
from seqgen.gpu.table import find_gpu
from seqgen.render.contents import RULE

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.parametrize(
    "name", ["gated_delta_rule", "linear_attention_normalised", "hgrn", "gsa", "mamba3", "abc"]
)
def test_contents_are_those_of_the_file(name: str) -> None:
    source = compile_spec(read_spec(EXAMPLES / f"{name}.yaml"), find_gpu("h200")).module.source
    tree = ast.parse(source)
    about = ast.get_docstring(tree) or ""
    listed = about[about.index("Contents") :].splitlines()[2:]
    parts = [re.match(r"    (\w[^:]*)", line)[1] for line in listed if line[4] != " "]  # type: ignore[index]
    banners = re.findall(rf"^{RULE}\n# ([^:\n]*).*\n{RULE}$", source, re.MULTILINE)
    assert [part.replace("SPEC, CONFIGS", "SPEC and CONFIGS") for part in parts] == banners
    functions = {n.name: n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)}
    headings = re.findall(r"^# ---- (.*)", source, re.MULTILINE)
    assert len(headings) == len(set(headings))
    runs: dict[str, list[str]] = {}
    for line in listed:
        if found := re.match(r"        (_\w+) runs (.*)", line):
            last = runs[found[1]] = [found[2]]
        elif line[4:].startswith(" " * 8):
            last.append(line.strip())
        else:
            last = []
    ending = ("_forward", "_backward", "_before")
    own = {
        name
        for name in functions
        if re.match(r"_[a-z_]+_(?=forward|backward|before)", name) and name.endswith(ending)
    } - {"_run_forward", "_run_backward"}  # those are the PyTorch operators
    assert set(runs) == {name for name in own if "launch_" in ast.unparse(functions[name])} | {
        name for name in own if set(_called(functions[name])) & own
    }
    for function, lines in runs.items():
        names = [n if n[0] == "_" else f"launch_{n}" for n in " ".join(lines).split(", ")]
        wanted = [n for n in _called(functions[function]) if n in own or n.startswith("launch_")]
        assert names == list(dict.fromkeys(wanted))
    text = "\n".join(listed)
    for kernel in (name for name in functions if name.endswith("_kernel")):
        assert re.search(rf"\b{kernel.removesuffix('_kernel')}\b", text), kernel
    for kernel in ("recurrent_forward", "recurrent_backward"):
        assert kernel in text and f"# ---- {kernel}\n" in source


def _called(function: ast.FunctionDef) -> list[str]:
    """Names of the functions that ``function`` calls, in the order of the text."""
    calls = [n for n in ast.walk(function) if isinstance(n, ast.Call)]
    calls.sort(key=lambda call: (call.lineno, call.col_offset))
    return [call.func.id for call in calls if isinstance(call.func, ast.Name)]


def test_notes_to_linters_are_for_readers_of_the_templates() -> None:
    source = compile_spec(read_spec(EXAMPLES / "gla.yaml"), find_gpu("h200")).module.source
    notes = [line for line in source.splitlines() if "noqa" in line]
    assert [note.split("  #")[0] for note in notes] == [
        "import torch",
        "import torch.utils.checkpoint",
    ]
    assert "compiled.run  # loads it\n" in source


def test_every_equation_stands_in_the_forward_kernel() -> None:
    compiled = compile_spec(read_spec(EXAMPLES / "gated_delta_rule.yaml"), find_gpu("h200"))
    source = compiled.module.source
    kernel = source[source.index("def recurrent_forward_kernel") :]
    kernel = kernel[: kernel.index("\ndef launch_")]
    assert [e for e in compiled.recurrence.equations if f"# {e}\n" not in kernel] == []
