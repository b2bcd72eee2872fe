"""The shape of the source: import direction, a light ``import seqgen``, and files one can read."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HEAVY = ("torch", "triton", "optuna", "sqlalchemy", "jinja2", "numpy", "yaml")


def loaded_by(statement: str, names: tuple[str, ...]) -> list[str]:
    """Which of ``names`` a fresh interpreter has imported after ``statement``."""
    code = f"{statement}\nimport sys\nprint(*[n for n in {names!r} if n in sys.modules])"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_import_of_seqgen_is_light() -> None:
    assert loaded_by("import seqgen", HEAVY) == []


def test_command_line_starts_without_torch() -> None:
    assert loaded_by("from seqgen.cli import _parser; _parser()", HEAVY) == []


def test_check_needs_no_torch() -> None:
    spec = ROOT / "examples" / "gla.yaml"
    statement = f"import seqgen.cli; assert seqgen.cli.main(['check', {str(spec)!r}]) == 0"
    assert "torch" not in loaded_by(statement, ("torch", "triton"))


def test_imports_point_one_way() -> None:
    main = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    command = [sys.executable, "-c", main, "--no-cache", "--no-logo"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 kept, 0 broken" in done.stdout


@pytest.mark.parametrize(
    ("folder", "pattern", "limit"),
    [("seqgen", "*.py", 400), ("templates", "*.jinja", 150), ("templates", "*.py", 150)],
)
def test_files_are_short_enough_to_read(folder: str, pattern: str, limit: int) -> None:
    lengths = {
        str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines())
        for path in (ROOT / folder).rglob(pattern)
    }
    assert lengths
    assert {path: count for path, count in lengths.items() if count > limit} == {}
