"""The tutorial, followed to the letter: its spec, its commands and its Python."""

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
    """Where the reader works: ``memory.yaml`` and nothing else."""
    made = tmp_path_factory.mktemp("tutorial")
    ((_, _, spec),) = blocks(TUTORIAL, "yaml")
    (made / "memory.yaml").write_text(spec, encoding="utf-8")
    return made


def commands() -> list[object]:
    found = []
    for _, _, text in blocks(TUTORIAL, "console"):
        command, *shown = text.splitlines()
        assert command.startswith("$ seqgen ")
        found.append(pytest.param(command[len("$ seqgen ") :], shown, id=command[2:]))
    return found


@pytest.mark.parametrize(("command", "shown"), commands())
def test_command_prints_what_is_shown(command: str, shown: list[str], folder: Path) -> None:
    """Every line shown is printed, in this order; '...' stands for anything."""
    printed = run(["-m", "seqgen", *shlex.split(command)], folder)
    pattern = "".join(re.escape(f"{line}\n") for line in shown)
    pattern = pattern.replace(re.escape("...\n"), "(?s:.*)")
    assert re.fullmatch(pattern, printed), f"{printed}\n\nis not\n\n" + "\n".join(shown)


def test_model_learns_and_decodes(folder: Path) -> None:
    program = "\n\n".join(text for _, _, text in blocks(TUTORIAL, "python"))
    (folder / "train.py").write_text(program, encoding="utf-8")
    printed = run(["train.py"], folder)
    losses = [float(loss) for loss in re.findall(r"loss (\d+\.\d+)", printed)]
    assert losses[0] > 1.8  # a guess: log 8 = 2.08
    assert losses[-1] < 0.5
    assert printed.endswith("decoded 16 tokens\n")
