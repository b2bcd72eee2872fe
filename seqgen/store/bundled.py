"""The records that ship with seqgen."""

from __future__ import annotations

import hashlib
from importlib.resources import files
from pathlib import Path


def bundled_folder() -> Path:
    """``tuning_db`` as installed, or the repository's own folder in a checkout."""
    packaged = Path(str(files("seqgen"))) / "_tuning_db"
    return packaged if packaged.is_dir() else Path(__file__).parents[2] / "tuning_db"


def bundled_files(folder: Path) -> list[tuple[Path, str]]:
    """The record files of ``folder``, by name, each with the sha256 of its bytes."""
    return [
        (path, hashlib.sha256(path.read_bytes()).hexdigest())
        for path in sorted(folder.glob("*.jsonl"))
    ]
