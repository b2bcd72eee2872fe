from __future__ import annotations

import inspect
import sys

import pytest

from seqgen.errors import SeqgenError, UsageError
from seqgen.runtime.cache import write_module
from seqgen.runtime.loader import load_module
from tests.runtime.modules import sealed

BODY = """\
from dataclasses import dataclass


@dataclass
class State:
    S: "int"


def gla(scale: int = 1):
    return 1
"""


def test_a_module_is_imported_from_its_path_with_its_source(tmp_path):
    file = tmp_path / "gla.py"
    write_module(file, sealed(BODY))
    module = load_module(file)
    assert module.gla() == 1
    assert module.State(S=2).S == 2
    assert module.gla.__annotations__ == {"scale": int}
    assert inspect.getsource(module.gla) == "def gla(scale: int = 1):\n    return 1\n"
    assert sys.modules[module.__name__] is module
    assert module.__file__ == str(file)
    assert load_module(file) is module
    assert list(tmp_path.iterdir()) == [file]


def test_a_changed_file_is_another_module(tmp_path):
    file = tmp_path / "gla.py"
    write_module(file, sealed(BODY))
    old = load_module(file)
    write_module(file, sealed(BODY.replace("return 1", "return 2")))
    new = load_module(file)
    assert (old.gla(), new.gla()) == (1, 2)
    assert inspect.getsource(new.gla) == "def gla(scale: int = 1):\n    return 2\n"
    assert old.__name__ != new.__name__


def test_one_content_is_one_module(tmp_path):
    first, second = tmp_path / "a" / "gla.py", tmp_path / "b" / "gla.py"
    write_module(first, sealed(BODY + "\n# one content\n"))
    write_module(second, sealed(BODY + "\n# one content\n"))
    assert load_module(first) is load_module(second)


def test_files_that_are_no_modules_are_named(tmp_path):
    file = tmp_path / "gla.py"
    with pytest.raises(UsageError) as caught:
        load_module(file)
    assert str(caught.value) == f"There is no file {file}."
    file.write_bytes(b"\x7fELF\xff")
    with pytest.raises(SeqgenError, match="is not a seqgen module: it is not text"):
        load_module(file)
    file.write_text("x = 1\n")
    with pytest.raises(SeqgenError, match="is not a seqgen module: its first line"):
        load_module(file)
    with pytest.raises(SeqgenError, match="cannot be read: Is a directory"):
        load_module(tmp_path)


def test_a_damaged_module_is_not_run(tmp_path):
    file = tmp_path / "gla.py"
    write_module(file, sealed(BODY))
    file.write_text(file.read_text() + "raise SystemExit\n")
    with pytest.raises(SeqgenError, match="is damaged or was changed"):
        load_module(file)


def test_a_module_that_fails_leaves_nothing_behind(tmp_path):
    file = tmp_path / "gla.py"
    write_module(file, sealed(BODY + "import no_such_library\n"))
    before = set(sys.modules)
    with pytest.raises(SeqgenError) as caught:
        load_module(file)
    assert str(caught.value) == (
        f"{file} fails to import: ModuleNotFoundError: No module named 'no_such_library'"
    )
    assert not [name for name in set(sys.modules) - before if name.startswith("seqgen_loaded")]
