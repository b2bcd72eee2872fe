"""``seqgen.load``: a cache that follows the spec, and messages for what is no spec."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import seqgen
from seqgen.build import compile_spec, read_spec
from seqgen.errors import SpecError, UsageError
from seqgen.gpu.table import find_gpu

ROOT = Path(__file__).parents[1]
SPEC = """\
operator: fading_sum
inputs: {x: [D], g: [D]}
state:  {h: [D]}
update: ["h = sigmoid(g) * h + x"]
output: {o: h}
"""


@pytest.fixture
def spec(tmp_path, monkeypatch):
    monkeypatch.setenv("SEQGEN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("SEQGEN_TUNING_DB", str(tmp_path / "tuning.sqlite"))
    file = tmp_path / "fading_sum.yaml"
    file.write_text(SPEC)
    return file


def built(folder):
    return sorted((folder / "cache").rglob("*.py"))


def test_the_same_spec_is_built_once(spec, tmp_path):
    one = seqgen.load_operator(spec, gpu="h100")
    (file,) = built(tmp_path)
    written = file.stat().st_mtime_ns
    assert seqgen.load_operator(spec, gpu="h100") is one
    assert seqgen.load(spec, gpu="h100") is one.fading_sum
    assert file.stat().st_mtime_ns == written and built(tmp_path) == [file]


def test_an_edited_spec_is_built_again(spec):
    torch = pytest.importorskip("torch")
    x = torch.ones(1, 2, 3)
    before = seqgen.load(spec, gpu="h100")(x, x)[0]
    spec.write_text(SPEC.replace("+ x", "+ 2 * x"))
    after = seqgen.load(spec, gpu="h100")(x, x)[0]
    assert torch.equal(after, 2 * before)


def test_a_comment_changes_nothing(spec, tmp_path):
    one = seqgen.load_operator(spec, gpu="h100")
    spec.write_text("# a word\n" + SPEC)
    assert seqgen.load_operator(spec, gpu="h100") is one and len(built(tmp_path)) == 1


@pytest.mark.parametrize("damage", ["", "x = 1\n", None])
def test_a_damaged_file_is_built_again(spec, tmp_path, damage):
    seqgen.load_operator(spec, gpu="h100")
    (file,) = built(tmp_path)
    text = file.read_text()
    file.write_text(text.replace("sigmoid", "cos") if damage is None else damage)
    seqgen.load_operator(spec, gpu="h100")
    assert file.read_text() == text


def test_bytes_of_two_builds_are_equal(spec):
    """Also in another process, where strings hash otherwise."""
    command = (
        "import sys; from seqgen.build import *; from seqgen.gpu.table import find_gpu;"
        "print(compile_spec(read_spec(sys.argv[1]), find_gpu('h100')).module.source, end='')"
    )
    name = ROOT / "examples" / "mamba2_ssd.yaml"
    here = compile_spec(read_spec(name), find_gpu("h100")).module.source
    there = subprocess.run(
        [sys.executable, "-c", command, str(name)],
        env={**os.environ, "PYTHONHASHSEED": "77", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert there == here


def test_a_spec_from_the_builder(spec):
    module = seqgen.load_operator(seqgen.load_spec(spec), gpu="h100")
    assert module.SPEC["operator"] == "fading_sum"


def test_what_is_no_spec(tmp_path, spec):
    with pytest.raises(UsageError) as caught:
        seqgen.load(7)
    assert str(caught.value) == "Expected a spec or the path of one, got int."
    with pytest.raises(UsageError, match=r"absent\.yaml"):
        seqgen.load(tmp_path / "absent.yaml", gpu="h100")
    with pytest.raises(UsageError, match="There is no GPU called 'h1000'"):
        seqgen.load(spec, gpu="h1000")
    spec.write_text(SPEC.replace("+ x", "+ y"))
    with pytest.raises(SpecError, match="'y' is not defined"):
        seqgen.load(spec, gpu="h100")
