"""The command line as a user meets it: exit status, messages, and no traceback."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from seqgen.build_command import _import_line
from seqgen.cli import main

SPEC = """\
operator: fading_sum
inputs: {x: [D], g: [D]}
state:  {h: [D]}
update: ["h = sigmoid(g) * h + x"]
output: {o: h}
"""
COUPLED = """\
operator: coupled
axes:   {K: 512, V: 512}
inputs: {q: [H, K], v: [H, V]}
state:  {S: [H, K, V]}
update: ["S = tanh(S) * sum(q * sum(S * v, V), K)"]
output: {o: "sum(q * S, K)"}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in, with a store and a cache of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setenv("SEQGEN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("SEQGEN_TUNING_DB", str(tmp_path / "tuning.sqlite"))
    (tmp_path / "spec.yaml").write_text(SPEC, encoding="utf-8")
    return tmp_path


def test_no_command_prints_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert capsys.readouterr().out.startswith("usage: seqgen")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["check", "absent.yaml"], "absent.yaml"),
        (["build", "spec.yaml", "--gpu", "h1000"], "There is no GPU called 'h1000'"),
        (["build", "spec.yaml", "--gpu", ","], "'--gpu' names no GPU"),
    ],
)
def test_wrong_arguments(
    arguments: list[str], message: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    shown = capsys.readouterr()
    assert message in shown.err
    assert shown.out == ""


def test_interpreter_refuses_bf16(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("compiled kernels take bf16")
    assert main(["verify", "spec.yaml", "--dtype", "bf16"]) == 2
    assert "Without a GPU, use fp32 or fp16." in capsys.readouterr().err


def test_check_goes_on_after_a_mistake(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "wrong.yaml").write_text(SPEC.replace("h + x", "h + y"), encoding="utf-8")
    assert main(["check", "wrong.yaml", "spec.yaml"]) == 2
    shown = capsys.readouterr()
    assert shown.err.startswith("'y' is not defined.\n  File \"wrong.yaml\", line 4\n")
    assert shown.out == "spec.yaml: correct, family scan\n"


@pytest.mark.parametrize("stage", ["ir", "plan", "source"])
def test_emit_prints_and_writes_nothing(
    stage: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["build", "spec.yaml", "--gpu", "h100", "--emit", stage]) == 0
    assert "h = sigmoid(g) * h + x" in capsys.readouterr().out or stage == "plan"
    assert not (folder / "seqgen_ops").exists()


def test_sizes_that_do_not_fit_are_a_message(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("triton")
    (folder / "coupled.yaml").write_text(COUPLED, encoding="utf-8")
    assert main(["build", "coupled.yaml", "--gpu", "h100"]) == 1
    note, error = capsys.readouterr().err.splitlines()
    assert note.startswith("  Note: The recurrent schedule keeps K = 512, V = 512 in one program")
    assert error == (
        "seqgen: The kernels refuse these sizes. coupled: one program must hold all of [K, V] = "
        "[512, 512], 262144 fp32 elements with padding; at most 16384 fit."
    )


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("seqgen_ops/a.py", "from seqgen_ops.a import a"),
        ("a.py", "from a import a"),
        ("../ops/a.py", "import sys; sys.path.insert(0, '../ops'); from a import a"),
        ("/x/a.py", "import sys; sys.path.insert(0, '/x'); from a import a"),
        ("my-ops/a.py", "import sys; sys.path.insert(0, 'my-ops'); from a import a"),
    ],
)
def test_import_line(file: str, line: str) -> None:
    assert _import_line(Path(file), "a") == line


def test_debug_shows_the_traceback(folder: Path) -> None:
    (folder / "wrong.yaml").write_text("operator: 7up\n", encoding="utf-8")
    root = str(Path(__file__).parents[1])
    command = [sys.executable, "-m", "seqgen", "--debug", "check", str(folder / "wrong.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=root)
    assert done.returncode == 1
    assert "Traceback" in done.stderr
