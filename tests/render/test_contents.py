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


@pytest.mark.parametrize("name", ["gated_delta_rule", "linear_attention_normalised", "hgrn"])
def test_contents_are_those_of_the_file(name: str) -> None:
    source = compile_spec(read_spec(EXAMPLES / f"{name}.yaml"), find_gpu("h200")).module.source
    tree = ast.parse(source)
    about = ast.get_docstring(tree) or ""
    listed = about[about.index("Contents") :].splitlines()[2:]
    parts = [re.match(r"    (\w[^:]*)", line)[1] for line in listed if line[4] != " "]  # type: ignore[index]
    banners = re.findall(rf"^{RULE}\n# ([^:\n]*).*\n{RULE}$", source, re.MULTILINE)
    assert [part.replace("SPEC, CONFIGS", "SPEC and CONFIGS") for part in parts] == banners
    functions = {n.name: n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)}
    text = " ".join(" ".join(listed).split())
    for function, names in re.findall(r"(_\w+) runs ([\w, ]+?)(?= _| Token)", text):
        places = [ast.unparse(functions[function]).index(f"launch_{n}(") for n in names.split(", ")]
        assert places == sorted(places)
    for kernel in ("recurrent_forward", "recurrent_backward"):
        assert kernel in text and f"# ---- {kernel}\n" in source


def test_every_equation_stands_in_the_forward_kernel() -> None:
    compiled = compile_spec(read_spec(EXAMPLES / "gated_delta_rule.yaml"), find_gpu("h200"))
    source = compiled.module.source
    kernel = source[source.index("def recurrent_forward_kernel") :]
    kernel = kernel[: kernel.index("\ndef launch_")]
    assert [e for e in compiled.recurrence.equations if f"# {e}\n" not in kernel] == []
