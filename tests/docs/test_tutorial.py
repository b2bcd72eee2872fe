"""The tutorial and 'Add a variant', followed to the letter: specs, commands and Python."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.test_docs import ROOT, blocks

pytestmark = pytest.mark.slow

TUTORIAL = ROOT / "docs" / "tutorial.md"
VARIANT = ROOT / "docs" / "add-a-variant.md"
SPECS = {TUTORIAL: "memory.yaml", VARIANT: "variant.yaml"}


def run(command: list[str], folder: Path) -> str:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "SEQGEN_CACHE": str(folder / "cache")}
    environment["SEQGEN_TUNING_DB"] = str(folder / "tuning.sqlite")
    done = subprocess.run(
        [sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the reader works: the spec of each page and nothing else."""
    made = tmp_path_factory.mktemp("tutorial")
    for page, name in SPECS.items():
        ((_, _, spec),) = blocks(page, "yaml")
        (made / name).write_text(spec, encoding="utf-8")
    return made


def commands() -> list[object]:
    """Each command and the lines shown below it; those after a ``tune`` need the GPU as well."""
    found = []
    for page in SPECS:
        for _, _, text in blocks(page, "console"):
            marks = [pytest.mark.gpu] if re.search(r"tune .*--budget", text) else []
            for part in re.split(r"^\$ seqgen ", text, flags=re.MULTILINE)[1:]:
                command, *shown = part.splitlines()
                found.append(pytest.param(command, shown, id=f"seqgen {command}", marks=marks))
    return found


@pytest.mark.parametrize(("command", "shown"), commands())
def test_command_prints_what_is_shown(command: str, shown: list[str], folder: Path) -> None:
    """Every line shown is printed, in this order; '...' stands for anything."""
    printed = run(["-m", "seqgen", *shlex.split(command)], folder)
    pattern = "".join(re.escape(f"{line}\n") for line in shown)
    pattern = pattern.replace(re.escape("...\n"), "(?s:.*)")
    assert re.fullmatch(pattern, printed), f"{printed}\n\nis not\n\n" + "\n".join(shown)


def program(page: Path, folder: Path) -> str:
    """What the Python of a page prints."""
    source = "\n\n".join(text for _, _, text in blocks(page, "python"))
    (folder / f"{page.stem}.py").write_text(source, encoding="utf-8")
    return run([f"{page.stem}.py"], folder)


def test_model_learns_and_decodes(folder: Path) -> None:
    printed = program(TUTORIAL, folder)
    losses = [float(loss) for loss in re.findall(r"loss (\d+\.\d+)", printed)]
    assert losses[0] > 1.8  # a guess: log 8 = 2.08
    assert losses[-1] < 0.5
    assert printed.endswith("decoded 16 tokens\n")


def test_variant_is_its_loop(folder: Path) -> None:
    assert program(VARIANT, folder) == "The spec is the loop, gradients included.\n"
