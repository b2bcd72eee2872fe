"""The race itself, on the CPU with contenders that are known to be right, wrong or broken."""

import json
import time

import pytest
import torch

from benchmarks import contenders, peers, processes, protocol, race, report
from benchmarks.operator import Operator, Peer
from benchmarks.operators import OPERATORS
from benchmarks.shapes import Shape

RIGHT = """
import torch

SPEC = {"operator": "simple_gla"}


def simple_gla(q, k, v, g, initial_state=None, output_final_state=False, cu_seqlens=None):
    state = torch.zeros(q.shape[0], q.shape[2], q.shape[3], v.shape[3])
    outputs = []
    for t in range(q.shape[1]):
        state = g[:, t].exp()[..., None, None] * state
        state = state + k[:, t].float().unsqueeze(-1) * v[:, t].float().unsqueeze(-2)
        query = q[:, t].float() * q.shape[3] ** -0.5
        outputs.append((query.unsqueeze(-1) * state).sum(-2))
    return torch.stack(outputs, 1).to(q.dtype), None
"""


def broken_call(inputs):
    raise RuntimeError("no kernel image\nand more")


def not_installed():
    raise ModuleNotFoundError("No module named 'fla'")


@pytest.fixture
def ours(tmp_path):
    file = tmp_path / "simple_gla.py"
    file.write_text(RIGHT)
    return str(file)


@pytest.fixture
def fake_peers(monkeypatch):
    real = OPERATORS["simple_gla"]
    peers_of_it = (
        Peer("half", lambda: lambda i: 0.5 * real.truth(i), 1),
        Peer("broken", lambda: broken_call, 1),
        Peer("absent", not_installed, 1),
    )
    fake = Operator("simple_gla", real.spec, real.make, real.truth, peers_of_it)
    monkeypatch.setitem(OPERATORS, "simple_gla", fake)


def job(ours, **more):
    return {
        "kind": "race",
        "operator": "simple_gla",
        "file": ours,
        "dtype": "float32",
        "device": "cpu",
        "shapes": ["2x40x2x8"],
        "ceilings": False,
        "deadline": time.time() + 60,
        **more,
    }


def test_every_contender_gets_the_result_it_deserves(ours, fake_peers):
    results = []
    race.run_race(job(ours), results.append)
    by_name = {result["contender"]: result for result in results}
    assert by_name["absent"]["missing"] == "ModuleNotFoundError: No module named 'fla'"
    assert by_name["broken"]["failed"] == "RuntimeError: no kernel image"
    mine, half = by_name[contenders.OURS], by_name["half"]
    assert mine["worst_error"] < 1e-5
    assert not mine["wrong"]
    assert half["wrong"]
    assert half["errors"]["o"] == pytest.approx(0.5, abs=1e-5)
    assert half["apart_from_ours"] == pytest.approx(0.5, abs=1e-4)
    assert set(mine["errors"]) == {"o", "dq", "dk", "dv", "dg"}
    assert mine["training"]["median"] > mine["forward"]["median"] > 0
    json.dumps(results, allow_nan=False)


def test_least_traffic_counts_each_tensor_once_per_direction():
    inputs = OPERATORS["simple_gla"].inputs(Shape(1, 8, 2, 4), torch.bfloat16, "cpu", seed=1)
    token, gate = 8 * 2 * 4 * 2, 8 * 2 * 4
    moved = race.least_traffic(inputs, race.cotangent(inputs))
    assert moved["forward_bytes"] == 4 * token + gate
    assert moved["training_bytes"] == 4 * token + gate + 7 * token + 2 * gate


def test_no_shape_is_started_after_the_deadline(ours, fake_peers):
    results = []
    race.run_race(job(ours, deadline=0), results.append)
    assert results[-1]["skipped"] == "no time left"


def test_contenders_take_turns_and_change_places():
    calls = []
    steps = {name: lambda name=name: calls.append(name) for name in "ab"}
    timings = protocol.race(steps, protocol.HostClock(), budget_ms=0.01, least=4)
    assert "".join(calls[:4]) == "abba"
    assert calls.count("a") == calls.count("b")
    assert timings["a"].repeats == timings["b"].repeats >= 4


def test_timing_takes_median_and_quantiles():
    timing = protocol.Timing.of([5.0, 1.0, 2.0, 3.0, 4.0, 100.0])
    assert (timing.median, timing.low, timing.high, timing.repeats) == (3.5, 2.0, 5.0, 6)


def test_training_step_gives_gradients_without_accumulating():
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    step = protocol.training_step(lambda: x * x, [x], torch.tensor([1.0, 1.0]))
    for _ in range(2):
        assert torch.equal(step()[1], torch.tensor([2.0, 4.0]))
    assert x.grad is None


def test_a_worker_process_reports_and_a_broken_one_is_told(ours, tmp_path):
    results = []
    until = time.time() + 120
    processes.run_job(job(ours), tmp_path, 0, until, results.append)
    mine = next(r for r in results if r["contender"] == contenders.OURS)
    assert mine["worst_error"] < 1e-5
    results.clear()
    processes.run_job(job(ours, operator="nothing"), tmp_path, 1, until, results.append)
    assert results == [
        {
            "kind": "race",
            "operator": "nothing",
            "shapes": ["2x40x2x8"],
            "broken": "KeyError: 'nothing'",
        }
    ]


def test_a_worker_is_ended_when_its_time_is_up(ours, tmp_path):
    results = []
    start = time.time()
    processes.run_job(job(ours), tmp_path, 0, start + 0.2, results.append)
    assert results[-1]["broken"] == "out of time"


def timed(contender, training, worst=0.002, wrong=False):
    timing = {"median": training, "low": training, "high": training, "repeats": 20}
    return {
        "operator": "simple_gla",
        "shape": "2x16384x16x128",
        "contender": contender,
        "forward_bytes": 1,
        "training_bytes": 4_000_000_000,
        "training": timing,
        "errors": {"o": worst, "dq": None if worst is None else worst / 2},
        "worst_error": worst,
        "wrong": wrong,
    }


def data(*results):
    meta = {
        "gpu": "G",
        "torch": "2.11",
        "triton": "3.6",
        "fla-core": None,
        "dtype": "bfloat16",
        "ceilings": {"copy_tb_per_s": 4.0, "bf16_tflop_per_s": 700.0},
    }
    return {"meta": meta, "results": list(results), "compiled": [], "cold_start": []}


def test_table_shows_ratio_and_marks_the_wrong():
    text = report.compact_table(data(timed("seqgen", 1.0), timed("fla", 2.5, None, True)))
    row = next(line for line in text.splitlines() if line.startswith("simple_gla"))
    assert "1.000   2.500  2.50" in row
    assert row.endswith("0.002 / nan !")
    assert "forward + backward: 2.50" in text


def test_a_wrong_result_of_ours_earns_no_ratio():
    found = data(timed("seqgen", 1.0, 0.4, True), timed("fla", 2.0))
    assert next(report.pairs(found)).ratio("training") is None


def test_report_is_written_beside_the_json(tmp_path):
    source = tmp_path / "out.json"
    source.write_text(json.dumps(data(timed("seqgen", 2.0), timed("fla", 3.0))))
    pytest.importorskip("matplotlib")
    assert report.main([str(source)]) == 0
    text = (tmp_path / "out.md").read_text()
    assert "| 2.000 / 3.000 | 1.50 |" in text
    assert "| 2.0x |" in text  # 4 GB at 4 TB/s take 1 ms
    assert (tmp_path / "out.png").stat().st_size > 1000


def test_several_runs_make_one_page():
    """The later time counts, a gap that was filled goes, and the floors stand first."""
    gap = {"operator": "simple_gla", "shape": "2x16384x16x128", "skipped": "no time left"}
    cold = {"operator": "simple_gla", "contender": "seqgen", "shape": "-"}
    first = data(timed("seqgen", 2.0), timed("fla", 3.0))
    first["cold_start"] = [{**cold, "cold_start_s": 6.5}]
    second = data(gap, timed("seqgen", 1.0))
    second["cold_start"] = [
        {**cold, "cold_start_s": None, "broken": "no time left"},
        {**cold, "operator": "", "contender": "torch alone", "cold_start_s": 4.0},
    ]
    merged = report.merge([first, second])
    assert next(report.pairs(merged)).ratio("training") == 3.0
    text = report.markdown(merged, "out.png")
    assert "Not measured" not in text
    assert text.index("| torch alone | G | - | 4.00 |") < text.index("| seqgen | G | - | 6.50 |")
    second["meta"]["gpu"] = "other"
    both = [pair.gpu for pair in report.pairs(report.merge([first, second]))]
    assert both == ["G", "other"]
    second["meta"]["torch"] = "2.12"
    with pytest.raises(ValueError, match=r"one page for different torch: 2.11, 2.12"):
        report.merge([first, second])


def test_extras_are_dropped_until_the_plan_fits():
    words = ["--op", "simple_gla", "--shapes", "six", "--cold-start", "both", "--budget"]
    tight, wide = (peers.options([*words, budget]) for budget in ("1s", "1h"))
    assert peers.fit_to_budget(wide, 16) == []
    dropped = peers.fit_to_budget(tight, 16)
    assert dropped[0] == "cold start, peers"
    assert len(dropped) == 6
    assert [str(shape) for shape in tight.shapes] == ["2x16384x16x128"]


def test_cold_starts_are_ours_then_the_floors_then_the_peers():
    parsed = peers.options(["--op", "simple_gla", "--cold-start", "both"])
    names = [contender for _, contender in peers.cold_starts(parsed, {"simple_gla": "x.py"})]
    floors = ["torch alone", "smallest Triton kernel"]
    assert names == ["seqgen", *floors, "fla simple_gla"]


def test_dry_run_plans_without_a_gpu(capsys):
    assert peers.main(["--dry-run", "--op", "simple_gla", "--shapes", "six", "1x64x2x32"]) == 0
    text = capsys.readouterr().out
    assert "simple_gla: seqgen, fla simple_gla (examples/simple_gla.yaml)" in text
    assert text.count("x128") == 4
    assert "1x64x2x32" in text


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_without_a_gpu_it_says_so(capsys):
    assert peers.main(["--op", "simple_gla"]) == 1
    assert capsys.readouterr().err.startswith("There is no GPU here.")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--shapes", "big"], "'big' is not of the form BxTxHxD"),
        (["--report"], "--report needs --json FILE"),
        (["--file", "nothing=x.py"], "--file names no operator: nothing"),
    ],
)
def test_wrong_arguments_are_named(words, message, capsys):
    with pytest.raises(SystemExit) as exit_:
        peers.main(words)
    assert exit_.value.code == 2
    assert message in capsys.readouterr().err


def test_shapes_with_equal_heads_are_compiled_together():
    shapes = peers.shapes_of(["six", "sweep"])
    assert len(shapes) == 12  # 2x16384x16x128 is in both sets
    assert [len(group) for group in peers.groups(shapes)] == [8, 1, 1, 1, 1]


def test_spare_cores_share_the_compilation():
    parsed = peers.options(["--op", "simple_gla", "--shapes", "one"])
    jobs = peers.compile_jobs(parsed, {"simple_gla": "x.py"}, cores=16)
    shares = [job["part"] for job in jobs if job["contender"] != contenders.OURS]
    assert sorted(shares) == [(part, 16) for part in range(16)]
    assert [job["part"] for job in jobs if job["contender"] == contenders.OURS] == [(0, 1)]


def test_budget_is_read_with_its_unit():
    assert [peers.minutes(text) for text in ("90", "90s", "8m")] == [90, 90, 480]


def test_as_many_processes_compile_as_the_gpu_has_room_for():
    first, largest = Shape.parse("2x16384x16x128"), Shape.parse("8x2048x32x256")
    assert peers.at_a_time([Shape.parse("8x1024x8x64")], 16, 80 << 30) == 16
    assert peers.at_a_time([first], 16, 80 << 30) == 13
    assert peers.at_a_time([first, largest], 16, 80 << 30) == 7
    assert peers.at_a_time([largest], 16, 8 << 30) == 1
