"""Where the templates and the shipped tuning records lie."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path


def _folder(packaged: str, in_repository: str) -> Path:
    inside = Path(str(files("seqgen"))) / packaged
    return inside if inside.is_dir() else Path(__file__).parents[1] / in_repository


def templates_dir() -> Path:
    """Templates as installed, or the repository's own folder in a development checkout."""
    return _folder("_templates", "templates")


def tuning_db_dir() -> Path:
    """Shipped tuning records as installed, or the repository's own folder."""
    return _folder("_tuning_db", "tuning_db")
