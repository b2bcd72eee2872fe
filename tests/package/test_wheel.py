"""What users install: the wheel works outside of the repository, its output without seqgen."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
SPEC = """\
operator: fading_sum
inputs: {x: [D], g: [D]}
state:  {h: [D]}
update: ["h = sigmoid(g) * h + x"]
output: {o: h}
"""


def run(*command: str | Path, folder: Path) -> str:
    """Standard output of a command that sees nothing of this repository."""
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "SEQGEN_CACHE")}
    environment |= {"SEQGEN_CACHE": str(folder), "SEQGEN_TUNING_DB": str(folder / "tuning.sqlite")}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The sdist, and the wheel that is built from it."""
    folder = tmp_path_factory.mktemp("dist")
    build = ("-m", "build", "--no-isolation", "--outdir", folder)
    run(sys.executable, *build, ROOT, folder=folder)
    (sdist,), (wheel,) = folder.glob("*.tar.gz"), folder.glob("*.whl")
    return sdist, wheel


@pytest.fixture(scope="module")
def python(packages: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clean environment with the wheel; dependencies are those that run these tests."""
    folder = tmp_path_factory.mktemp("venv")
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    (site,) = folder.glob("lib/python*/site-packages")
    install = ("-m", "pip", "install", "-q", "--no-deps", "--no-index", "--target", site)
    run(sys.executable, *install, packages[1], folder=folder)
    places = [p for p in sys.path if p.endswith(("site-packages", "dist-packages"))]
    (site / "dependencies.pth").write_text("\n".join(places), encoding="utf-8")
    # An editable install of this repository would be found behind the wheel, never before it.
    shown = run(python, "-c", "import seqgen; print(seqgen.__file__)", folder=folder)
    assert Path(shown.strip()) == site / "seqgen" / "__init__.py"
    return python


def test_wheel_carries_templates_and_records(packages: tuple[Path, Path]) -> None:
    names = set(zipfile.ZipFile(packages[1]).namelist())
    expected = {
        f"seqgen/{inside}/{path.relative_to(ROOT / outside).as_posix()}"
        for outside, inside in (("templates", "_templates"), ("tuning_db", "_tuning_db"))
        for path in (ROOT / outside).rglob("*")
        if path.suffix in (".jinja", ".py", ".jsonl", ".md")
    }
    assert len(expected) > 10
    assert expected - names == set()
    assert {"seqgen/py.typed", "seqgen/cli.py", "seqgen/compat/fla/__init__.py"} <= names
    assert [n for n in names if not n.startswith(("seqgen/", "seqgen-"))] == []


def test_sdist_carries_what_the_tests_need(packages: tuple[Path, Path]) -> None:
    with tarfile.open(packages[0]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    wanted = ("LICENSE", "README.md", "constraints.txt", "templates/module.py.jinja")
    assert {*wanted, "tests/package/test_wheel.py", "examples/gla.yaml"} <= names
    assert [n for n in names if ".venv" in n or "__pycache__" in n] == []


def test_installed_wheel_builds_an_operator(python: Path, tmp_path: Path) -> None:
    (tmp_path / "fading_sum.yaml").write_text(SPEC, encoding="utf-8")
    seqgen = (python, "-m", "seqgen")
    assert run(*seqgen, "check", "fading_sum.yaml", folder=tmp_path) == (
        "fading_sum.yaml: correct, family scan\n"
        "  scan: token-serial, in segments of the sequences that run in parallel\n"
        "  Not linear, delta, dplr: no output contracts an axis of h.\n"
    )
    printed = run(*seqgen, "build", "fading_sum.yaml", "--gpu", "h100", folder=tmp_path)
    assert "wrote seqgen_ops/fading_sum.py" in printed


def test_generated_file_needs_no_seqgen(python: Path, tmp_path: Path) -> None:
    (tmp_path / "fading_sum.yaml").write_text(SPEC, encoding="utf-8")
    source = run(
        *(python, "-m", "seqgen", "build", "fading_sum.yaml", "--gpu", "h100", "--emit", "source"),
        folder=tmp_path,
    )
    (tmp_path / "fading_sum.py").write_text(source, encoding="utf-8")
    program = """
import sys


class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("seqgen", "jinja2", "yaml", "sqlalchemy", "optuna"):
            raise ModuleNotFoundError(name)


sys.meta_path.insert(0, Hidden())
import torch
from fading_sum import fading_sum

x, g = torch.randn(2, 5, 3, requires_grad=True), torch.zeros(2, 5, 3)
o, final = fading_sum(x, g, output_final_state=True)
o.sum().backward()
expected, h = [], 0
for t in range(5):
    h = 0.5 * h + x[:, t]
    expected.append(h)
torch.testing.assert_close(o, torch.stack(expected, 1))
torch.testing.assert_close(final, h)
torch.testing.assert_close(x.grad[0, :, 0], 2 - 0.5 ** torch.arange(4.0, -1, -1))
print("alone")
"""
    (tmp_path / "use.py").write_text(program, encoding="utf-8")
    assert run(python, "use.py", folder=tmp_path) == "alone\n"
