"""Where generated modules lie, and how they get there in one piece."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

import seqgen
from seqgen.errors import SeqgenError
from seqgen.runtime.header import read_header


def cache_folder() -> Path:
    """``$SEQGEN_CACHE``, else ``$XDG_CACHE_HOME/seqgen``, else ``~/.cache/seqgen``. Not created."""
    own = os.environ.get("SEQGEN_CACHE")
    if own:
        return Path(own).expanduser().absolute()
    shared = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG standard: a relative path is invalid and to be ignored.
    if Path(shared).is_absolute():
        return Path(shared) / "seqgen"
    try:
        return Path.home() / ".cache" / "seqgen"
    except RuntimeError as error:
        raise SeqgenError("There is no home folder for the cache. Set SEQGEN_CACHE.") from error


def cached_module(operator: str, fingerprint: str) -> Path:
    """The file in the cache for one operator and everything it was built from.

    Args:
        operator: the operator's name, an identifier.
        fingerprint: a hash (hexadecimal) of all that decides the content: spec, GPU, configs.
    """
    return cache_folder() / "ops" / fingerprint[:24] / f"{operator}.py"


def write_module(file: Path, source: str) -> None:
    """Put ``source`` at ``file``, whole or not at all; its folder is made.

    Two processes that write the same file both succeed; the later one's file stays.

    Raises:
        SeqgenError: the folder cannot be written (read-only, full disk); an old file is untouched.
    """
    temporary: Path | None = None
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        # The same folder: only there os.replace is atomic.
        handle, name = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.", suffix=".tmp")
        temporary = Path(name)
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as stream:
            stream.write(source)
            stream.flush()
            os.fsync(stream.fileno())
        # mkstemp's file is private; a generated module is as readable as any source file.
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(file)
    except OSError as error:
        raise SeqgenError(f"{file} cannot be written: {error.strerror or error}.") from error
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)


def check_fresh(file: Path, spec_hash: str) -> str | None:
    """Why ``file`` has to be built (again), in a phrase; None if it can stay.

    Args:
        file: a generated module, or where one should be.
        spec_hash: of the spec as it is now.
    """
    try:
        header = read_header(file.read_text(encoding="utf-8"), file)
    except FileNotFoundError:
        return "it is not there"
    except (OSError, UnicodeDecodeError):
        return "it cannot be read"
    except SeqgenError:
        return "it is not as seqgen wrote it"
    if header.spec_hash != spec_hash:
        return "it was built from another spec"
    if header.version != seqgen.__version__:
        return f"it was built by seqgen {header.version}"
    return None
