"""The documentation says what the code does: its specs parse, its messages are the real ones.

``SEQGEN_ACCEPT=1 pytest tests/docs`` rewrites the generated table of functions.
"""

from __future__ import annotations

import ast
import os
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from seqgen.build import analyse_spec, compile_spec
from seqgen.errors import SpecError
from seqgen.gpu.table import find_gpu
from seqgen.passes.lower import lower
from seqgen.plan.choose import choose_schedule
from seqgen.plan.schedule_text import SCHEDULES as KINDS
from seqgen.spec.functions import FUNCTIONS
from seqgen.spec.loader import SECTIONS, load_spec, parse_spec

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
LANGUAGE = ROOT / "docs" / "language.md"

FENCE = re.compile(r"^```(\S*)( error)?\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page: Path, language: str) -> Iterator[tuple[str, bool, str]]:
    """Place, whether it is a mistake on purpose, and text of each fenced block."""
    text = page.read_text(encoding="utf-8")
    for match in FENCE.finditer(text):
        if match[1] == language:
            line = text[: match.start()].count("\n") + 2
            yield f"{page.name}:{line}", bool(match[2]), match[3]


def specs(wrong: bool) -> list[object]:
    return [
        pytest.param(text, id=place)
        for page in PAGES
        for place, is_wrong, text in blocks(page, "yaml")
        if is_wrong == wrong
    ]


@pytest.mark.parametrize("text", specs(wrong=False))
def test_spec_is_correct(text: str) -> None:
    recurrence = lower(parse_spec(text, "spec.yaml"))
    assert recurrence.outputs


@pytest.mark.parametrize("text", specs(wrong=True))
def test_message_of_a_wrong_spec_follows_it(text: str) -> None:
    with pytest.raises(SpecError) as caught:
        compile_spec(parse_spec(text, "spec.yaml"), find_gpu("h100"))
    shown = [message for page in PAGES for _, _, message in blocks(page, "text")]
    assert f"{caught.value}\n" in shown


def test_python_blocks_are_python() -> None:
    for page in PAGES:
        for place, _, text in blocks(page, "python"):
            try:
                ast.parse(text)
            except SyntaxError as error:
                pytest.fail(f"{place}: {error}")


def test_kernel_in_the_readme_is_the_generated_one() -> None:
    spec = load_spec(ROOT / "examples" / "gated_delta_rule.yaml")
    source = compile_spec(spec, find_gpu("h100")).module.source
    kernel = next(text for _, _, text in blocks(ROOT / "README.md", "python") if "tl." in text)
    assert textwrap.indent(kernel, " " * 8) in source


def test_call_in_the_readme_works(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SEQGEN_CACHE", str(tmp_path))
    monkeypatch.chdir(ROOT)
    call = next(t for _, _, t in blocks(ROOT / "README.md", "python") if "seqgen.load(" in t)
    names: dict[str, Any] = {}
    exec(call, names)
    assert names["o"].shape == (1, 100, 4, 128)
    assert names["q"].grad.abs().sum() > 0


def test_spec_in_the_readme_is_the_example() -> None:
    example = (ROOT / "examples" / "gated_delta_rule.yaml").read_text(encoding="utf-8")
    assert [text for _, _, text in blocks(ROOT / "README.md", "yaml")] == [example]


def test_the_readme_counts_the_examples() -> None:
    count = len(list((ROOT / "examples").glob("*.yaml")))
    assert f"`examples/` has {count} specs" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_commands_in_the_readme_are_one_line_each() -> None:
    """Each sets up from nothing; CI runs the second (.ci/run)."""
    first, second = (text for _, _, text in blocks(ROOT / "README.md", ""))
    assert first.count("\n") == second.count("\n") == 1
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    assert set(second.strip().split(" && ")) <= set(script)


SCHEDULES = {
    "chunkwise": [
        *("linear_attention", "linear_attention_normalised", "retnet", "simple_gla"),
        *("mamba2_ssd", "surprise_gated_retention", "delta_rule", "gated_delta_rule"),
        *("gla", "hgrn2", "rwkv6", "value_decay", "key_value_decay"),
        *("kda", "comba", "gdn2", "gated_oja", "rwkv7", "dplr", "iplr"),
        *("mlstm", "gsa", "abc", "mamba3", "preconditioned_delta"),  # in two stages
    ],
    "segments": ["hgrn", "selective_scan"],
    "token-serial": ["saturating_memory"],
}


@pytest.mark.parametrize(("word", "names"), SCHEDULES.items())
def test_schedules_in_the_readme_are_those_that_operators_get(word: str, names: list[str]) -> None:
    """A new schedule makes this fail: README's table has to say so."""
    expected = {
        "chunkwise": (
            "linear",
            "vector",
            "transposed",
            "key_value",
            "delta",
            "vector_delta",
            "transposed_delta",
        ),
        "segments": ("scan",),
        "token-serial": ("recurrent",),
    }[word]
    for name in names:
        recurrence, structure = analyse_spec(load_spec(ROOT / "examples" / f"{name}.yaml"))
        assert choose_schedule(recurrence, structure, find_gpu("h200")).name in expected, name


def test_contributing_says_where_each_schedule_is() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    table = text[text.index("| schedule |") :].split("\n\n")[0].splitlines()[2:]
    rows = [[re.findall(r"`([^`]+)`", cell) for cell in row.split("|")[1:4]] for row in table]
    assert [name for names, _, _ in rows for name in names] == list(KINDS)
    for _, files, _ in rows:
        assert [f for f in files if not list((ROOT / "seqgen" / "plan").glob(f))] == []
    kernels = ROOT / "templates" / "kernels"
    found = {path for _, _, names in rows for name in names for path in kernels.glob(name)}
    assert found == set(kernels.iterdir())


def test_links_lead_somewhere() -> None:
    broken = [
        f"{page.name}: {target}"
        for page in PAGES
        for target in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8"))
        if "://" not in target and not (page.parent / target).exists()
    ]
    assert broken == []


def test_every_section_of_a_spec_is_explained() -> None:
    text = LANGUAGE.read_text(encoding="utf-8")
    assert re.findall(r"^\| `(\w+)` \|", text.split("\n## ")[0], re.MULTILINE) == SECTIONS


def test_builder_gives_the_same_operator_as_yaml() -> None:
    source = next(t for _, _, t in blocks(LANGUAGE, "python") if "OperatorBuilder" in t)
    names: dict[str, object] = {}
    exec(compile(source, "language.md", "exec"), names)
    built = lower(names["gla"])  # type: ignore[arg-type]
    example = ROOT / "examples" / "gla.yaml"
    written = lower(parse_spec(example.read_text(encoding="utf-8"), "gla.yaml"))
    assert built.equations == written.equations
    assert built.argument_order() == written.argument_order()


def test_function_table_is_up_to_date() -> None:
    rows = [f"| `{f.signature}` | {f.about} |" for f in FUNCTIONS.values()]
    table = "\n".join(["| function | value |", "|---|---|", *rows])
    text = LANGUAGE.read_text(encoding="utf-8")
    start = text.index("-->\n", text.index("<!-- functions:")) + len("-->\n")
    end = text.index("<!-- end of functions -->")
    if os.environ.get("SEQGEN_ACCEPT"):
        LANGUAGE.write_text(f"{text[:start]}\n{table}\n\n{text[end:]}", encoding="utf-8")
    else:
        assert text[start:end].strip() == table
