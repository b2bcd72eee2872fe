"""Files of tests/interpreted run in processes of their own, beside all other tests."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent / "interpreted"


def run(name):
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(FOLDER / name)]
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        command, cwd=FOLDER.parents[1], env=environment, capture_output=True, text=True
    )


@pytest.fixture(scope="session", autouse=True)
def interpreted(request):
    """A future for each file that ``test_interpreted.py`` asks for; they start with the session."""
    items = request.session.items
    chosen = [item for item in items if item.path.name == "test_interpreted.py"]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        runs = {n: pool.submit(run, n) for n in (i.callspec.params["name"] for i in chosen)}
        yield runs
        for future in runs.values():
            future.cancel()
