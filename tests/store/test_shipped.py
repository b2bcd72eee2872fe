"""The records in tuning_db: of operators that there are, measured as README there asks for."""

import json
from pathlib import Path

import pytest

from seqgen.build import compile_spec, read_spec
from seqgen.gpu.table import find_gpu

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "tuning_db").glob("*.jsonl"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_records_are_of_examples_as_they_are_now(file):
    records = [json.loads(line) for line in file.read_text().splitlines()[1:]]
    found = {(r["kernel"]["op"], r["kernel"]["spec_hash"]) for r in records}
    gpu = find_gpu("h100")
    current = {
        op: compile_spec(read_spec(ROOT / "examples" / f"{op}.yaml"), gpu).module.spec_hash
        for op, _ in found
    }
    assert found == set(current.items())


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_times_are_steady_and_what_was_timed_was_right(file):
    records = [json.loads(line) for line in file.read_text().splitlines()[1:]]
    right = {
        (json.dumps(r["kernel"], sort_keys=True), json.dumps(r["config"], sort_keys=True))
        for r in records
        if r["type"] == "verification" and r["outcome"] == "ok"
    }
    timed = [r for r in records if r["type"] == "measurement"]
    assert timed
    for r in timed:
        key = (json.dumps(r["kernel"], sort_keys=True), json.dumps(r["config"], sort_keys=True))
        assert key in right and r["noise"] < 0.02, r["id"]
