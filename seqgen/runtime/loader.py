"""Import generated modules from where they lie."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from seqgen.errors import SeqgenError, UsageError
from seqgen.runtime.header import read_header

_loaded: dict[str, ModuleType] = {}
"""By module name, which holds a hash of the content."""


def load_module(file: Path) -> ModuleType:
    """Import the generated module ``file``, or return it if its content was imported before.

    Raises:
        UsageError: there is no such file.
        SeqgenError: it is no seqgen module, it is damaged, or it fails to import.
    """
    read_header(_read(file), file)
    return import_file(file)


def import_file(file: Path) -> ModuleType:
    """Import any self-contained Python file under a name made from its stem and content.

    The content is in the name, so a changed file is another module, and one content has one
    module even if two files hold it: its ``torch.library`` names are registered once. The module
    is read from ``file`` and nowhere else (no byte code), as Triton reads the source there too.

    Raises:
        UsageError: there is no such file.
        SeqgenError: it fails to import.
    """
    source = _read(file)
    digest = hashlib.sha256(source.encode()).hexdigest()
    name = f"seqgen_loaded_{digest[:16]}_{file.stem}"
    if name in _loaded:
        return _loaded[name]
    spec = importlib.util.spec_from_file_location(name, file.resolve())
    if spec is None:
        raise UsageError(f"{file} is no Python file.")
    module = importlib.util.module_from_spec(spec)
    # Decorators look their module up while it is still being imported.
    sys.modules[name] = module
    try:
        # Not with the __future__ imports of this file.
        code = compile(source, str(file.resolve()), "exec", dont_inherit=True)
        exec(code, module.__dict__)
    except Exception as error:
        del sys.modules[name]
        raise SeqgenError(f"{file} fails to import: {type(error).__name__}: {error}") from error
    except BaseException:
        del sys.modules[name]
        raise
    _loaded[name] = module
    return module


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise UsageError(f"There is no file {file}.") from error
    except UnicodeDecodeError as error:
        raise SeqgenError(f"{file} is not a seqgen module: it is not text.") from error
    except OSError as error:
        raise SeqgenError(f"{file} cannot be read: {error.strerror or error}.") from error
