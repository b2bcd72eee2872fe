"""From a build over tuning to the next build: both sides compute the same keys."""

import io
import json
import re
from pathlib import Path

import pytest

from seqgen.build import compile_spec, read_spec
from seqgen.errors import SeqgenError
from seqgen.gpu.table import find_gpu
from seqgen.tune.kernel_tuner import Options
from seqgen.tune.progress import Progress
from seqgen.tune.results import KernelTask
from seqgen.tune.tuner import tune_operator
from seqgen.tune.workload import workload_of
from seqgen.tuned import tuned_configs
from seqgen.why_miss import why_miss

from .fakes import FakeBench

ROOT = Path(__file__).parents[2]
SPEC = ROOT / "examples" / "hgrn.yaml"


class SpecBench(FakeBench):
    """Every kernel is fastest with its largest values."""

    def __init__(self, spaces):
        super().__init__(time_of=lambda c: 1e4 / sum(c.values()))
        self._spaces = spaces

    def tasks(self):
        return {s.kernel: KernelTask("bf16", {"D": 64}, 1, 6, s.default) for s in self._spaces}


def tune_hgrn(store, shape):
    h200 = find_gpu("h200")
    compiled = compile_spec(read_spec(SPEC), h200)
    spaces = {space.kernel: space for space in compiled.schedule.spaces}
    module = Path(store.name).parent / "hgrn.py"
    module.write_text(compiled.module.source)
    return spaces, tune_operator(
        module,
        workload_of(compiled.recurrence, shape, "bf16"),
        compiled.module.spec_hash,
        h200,
        lambda kernel, task: spaces[kernel],
        store,
        Options(budget=600.0, evaluations=20),
        progress=Progress(io.StringIO()),
        open_bench=lambda path, workload: SpecBench(spaces.values()),
    )


def test_a_build_after_tuning_has_the_winners(store):
    h200, spec = find_gpu("h200"), read_spec(SPEC)
    spaces, results = tune_hgrn(store, {"B": 2, "T": 256})
    assert {r.query.kernel.kernel for r in results} == set(spaces)

    tuned = compile_spec(spec, h200, tuned_configs(h200, store.name, frozen=True))
    for result in results:
        config = dict(result.winner.candidate.config)
        assert config != dict(spaces[result.query.kernel.kernel].default)
        assert re.sub(r"\s+", " ", repr(config))[1:-1].replace("'", '"') in re.sub(
            r"\s+", " ", tuned.module.source
        )
    assert tuned.module.source.count('"origin": "tuned"') == len(spaces)
    # The kernels themselves stay the same, so another tuning finds its own records again.
    again = compile_spec(spec, find_gpu("h100"), tuned_configs(find_gpu("h100"), store.name))
    assert again.module.source.count('"origin": "sibling"') == len(spaces)
    a100 = find_gpu("a100")
    with pytest.raises(SeqgenError, match="has no tuned configuration on a100"):
        compile_spec(spec, a100, tuned_configs(a100, store.name, frozen=True))


def test_why_miss_names_what_differs(store):
    h200, spec = find_gpu("h200"), read_spec(SPEC)
    text = why_miss(spec, h200, "bf16", {"D": 64}, store)
    assert [line for line in text.splitlines() if line.startswith("hgrn ")] == [
        f"hgrn {space.kernel}: Miss: the default is used."
        for space in compile_spec(spec, h200).schedule.spaces
    ]
    tune_hgrn(store, {"B": 2, "T": 64, "D": 64})  # too short for segments
    assert why_miss(spec, h200, "bf16", {"B": 2, "T": 64, "D": 64}, store).count("Hit.") == 3
    shorter = why_miss(spec, h200, "bf16", {"B": 2, "T": 16, "D": 64}, store)
    assert shorter.count("Uses neighbour.") == 3
    assert shorter.count("problem: length: 6 stored, 4 wanted") == 3


def shipped_operators():
    """(GPU, operator) of the records in tuning_db/."""
    found = set()
    for file in (ROOT / "tuning_db").glob("*.jsonl"):
        records = map(json.loads, file.read_text(encoding="utf-8").splitlines())
        found |= {(file.stem, r["kernel"]["op"]) for r in records if "kernel" in r}
    return sorted(found)


@pytest.mark.parametrize(("gpu", "name"), shipped_operators())
def test_a_build_uses_the_shipped_records(tmp_path, gpu, name):
    """Fails where a change of templates made all records of an operator useless: tune again."""
    tuned = tuned_configs(find_gpu(gpu), str(tmp_path / "fresh.sqlite"))
    compiled = compile_spec(read_spec(ROOT / "examples" / f"{name}.yaml"), find_gpu(gpu), tuned)
    assert '"origin": "tuned"' in compiled.module.source
