"""The real worker, compiler and clock. Run with ``pytest -m gpu tests/tune/test_gpu.py``."""

from pathlib import Path

import pytest

from seqgen.cli import main
from seqgen.store.records import Measurement, Verification
from seqgen.store.store import TuningStore

pytestmark = pytest.mark.gpu
SPEC = Path(__file__).parents[2] / "examples" / "hgrn.yaml"


def test_tune_then_build_frozen(tmp_path, monkeypatch):
    db = str(tmp_path / "tuning.sqlite")
    shape = ["--shapes", "B2,T512,D256"]
    assert main(["tune", str(SPEC), *shape, "--budget", "90s", "--db", db]) == 0
    with TuningStore.open(db) as store:
        mine = [r for r in store.records() if r.kernel.op == "hgrn"]
    finals = [r for r in mine if isinstance(r, Measurement) and r.rung == "final"]
    assert {r.role for r in finals} >= {"default"}
    assert all(r.noise < 0.1 and r.median_us > 1.0 for r in finals)
    assert any(isinstance(r, Verification) and r.outcome == "ok" for r in mine)
    out = tmp_path / "ops"
    assert main(["build", str(SPEC), "--frozen", "--db", db, "-o", str(out)]) == 0
    assert '"origin": "tuned"' in (out / "hgrn.py").read_text()
