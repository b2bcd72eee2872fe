"""Every command, option and environment variable is documented, and nothing that is not there."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator

import pytest

from seqgen.cli import _parser
from tests.docs.test_docs import ROOT

TEXT = (ROOT / "docs" / "command-line.md").read_text(encoding="utf-8")


def subcommands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


def options(parser: argparse.ArgumentParser) -> Iterator[str]:
    """Long options of a command and of its parts."""
    for action in parser._actions:
        yield from (option for option in action.option_strings if option.startswith("--"))
    for part in subcommands(parser).values():
        yield from options(part)


COMMANDS = subcommands(_parser())
SECTIONS = {part.split()[0]: part for part in TEXT.split("\n## seqgen ")[1:]}


def test_every_command_has_its_section() -> None:
    assert sorted(SECTIONS) == sorted(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_options_are_those_that_exist(name: str) -> None:
    section = SECTIONS[name].split("\n## Environment")[0]
    documented = set(re.findall(r"`(--[a-z-]+)", section))
    documented -= {"--gpu"} if name == "gpus" else set()
    assert documented == set(options(COMMANDS[name])) - {"--help"}


def test_parts_of_db_are_documented() -> None:
    parts = re.findall(r"^\| `([\w-]+)", SECTIONS["db"].split("\n## Environment")[0], re.MULTILINE)
    assert sorted(parts) == sorted(subcommands(COMMANDS["db"]))


def test_every_command_says_what_it_does() -> None:
    action = next(a for a in _parser()._actions if isinstance(a, argparse._SubParsersAction))
    assert [c.dest for c in action._choices_actions if not c.help] == []


def test_environment_variables_are_those_that_exist() -> None:
    files = [*(ROOT / "seqgen").rglob("*.py"), *(ROOT / "templates").rglob("*.*")]
    source = "\n".join(path.read_text(encoding="utf-8") for path in files if path.is_file())
    used = set(re.findall(r"SEQGEN_[A-Z_]+", source))
    assert set(re.findall(r"`(SEQGEN_[A-Z_]+)", TEXT.split("\n## Environment")[1])) == used
