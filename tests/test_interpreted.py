"""Runs tests/interpreted in processes where Triton interprets kernels: see conftest.py."""

from pathlib import Path

import pytest

FOLDER = Path(__file__).parent / "interpreted"


@pytest.mark.parametrize("name", sorted(path.name for path in FOLDER.glob("test_*.py")))
def test_under_the_interpreter(name, interpreted):
    done = interpreted[name].result()
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
