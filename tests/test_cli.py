"""The command line as a user meets it: exit status, messages, and no traceback."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from seqgen.build_command import _import_line
from seqgen.cli import main

SPEC = """\
operator: fading_sum
inputs: {x: [D], g: [D]}
state:  {h: [D]}
update: ["h = sigmoid(g) * h + x"]
output: {o: h}
"""
COUPLED = """\
operator: coupled
axes:   {K: 512, V: 512}
inputs: {q: [H, K], v: [H, V]}
state:  {S: [H, K, V]}
update: ["S = tanh(S) * sum(q * sum(S * v, V), K)"]
output: {o: "sum(q * S, K)"}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in, with a store and a cache of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setenv("SEQGEN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("SEQGEN_TUNING_DB", str(tmp_path / "tuning.sqlite"))
    (tmp_path / "spec.yaml").write_text(SPEC, encoding="utf-8")
    return tmp_path


def test_no_command_prints_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert capsys.readouterr().out.startswith("usage: seqgen")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["check", "absent.yaml"], "absent.yaml"),
        (["build", "spec.yaml", "--gpu", "h1000"], "There is no GPU called 'h1000'"),
        (["build", "spec.yaml", "--gpu", ","], "'--gpu' names no GPU"),
        (
            ["build", "spec.yaml", "--gpu", "h100", "--sizes", "K64"],
            "fading_sum has no axis K; its axes",
        ),
        (["build", "spec.yaml", "--gpu", "h100", "--sizes", "64"], "'64' in shape '64' is no size"),
    ],
)
def test_wrong_arguments(
    arguments: list[str], message: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    shown = capsys.readouterr()
    assert message in shown.err
    assert shown.out == ""
    assert not Path("seqgen_ops").exists()


def test_build_reports_on_the_sizes_asked_for(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["build", "spec.yaml", "--gpu", "h100", "--sizes", "D64"]) == 0
    assert "  compiled for h100 (bf16, D=64 and default sizes):" in capsys.readouterr().out
    assert main(["build", "spec.yaml", "--gpu", "h100", "--sizes", "D=64", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["sizes"] == {"D": 64}


def test_interpreter_refuses_bf16(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("compiled kernels take bf16")
    assert main(["verify", "spec.yaml", "--dtype", "bf16"]) == 2
    assert "Without a GPU, use fp32 or fp16." in capsys.readouterr().err


def test_check_goes_on_after_a_mistake(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "wrong.yaml").write_text(SPEC.replace("h + x", "h + y"), encoding="utf-8")
    assert main(["check", "wrong.yaml", "spec.yaml"]) == 2
    shown = capsys.readouterr()
    assert shown.err.startswith("'y' is not defined.\n  File \"wrong.yaml\", line 4\n")
    assert shown.out == (
        "spec.yaml: correct, family scan\n"
        "  scan: token-serial, in segments of the sequences that run in parallel\n"
        "  Not linear, delta, dplr: no output contracts an axis of h.\n"
    )


def test_check_says_why_an_operator_runs_token_by_token(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "coupled.yaml").write_text(COUPLED, encoding="utf-8")
    assert main(["check", "coupled.yaml"]) == 0
    reasons = [
        "  Not linear, scan: the update contracts the state: sum(q * sum(S * v, V), K).\n",
        "  Not delta, dplr: tanh(S) * sum(q * sum(S * v, V), K) is not linear in the state.\n",
    ]
    shown = capsys.readouterr().out
    assert all(reason in shown for reason in reasons)
    assert main(["explain", "coupled.yaml"]) == 0
    schedule = capsys.readouterr().out.partition("\nSchedule\n")[2]
    assert all(reason in schedule for reason in reasons)


def test_check_holds_what_a_spec_requires(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "slow.yaml").write_text(f"{SPEC}require: {{schedule: chunkwise}}\n", encoding="utf-8")
    assert main(["check", "slow.yaml"]) == 2
    shown = capsys.readouterr()
    assert shown.err == (
        "The spec requires a chunkwise schedule, but the operator runs token by token in "
        "parallel segments.\n"
        '  File "slow.yaml", line 6\n'
        "    6 | require: {schedule: chunkwise}\n"
        "      |                     ^^^^^^^^^ this is token-serial\n"
        "  Note: Not linear, delta, dplr: no output contracts an axis of h.\n"
        "  Hint: Change the spec, or leave 'schedule' out of 'require'.\n"
    )
    assert shown.out == ""


@pytest.mark.parametrize("stage", ["ir", "plan", "source"])
def test_emit_prints_and_writes_nothing(
    stage: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["build", "spec.yaml", "--gpu", "h100", "--emit", stage]) == 0
    shown = capsys.readouterr().out
    assert "h = sigmoid(g) * h + x" in shown or stage == "plan"
    assert shown.endswith("\n") and not shown.endswith("\n\n")  # '> file' is the file
    assert not (folder / "seqgen_ops").exists()


def test_plan_is_an_outline(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Short lines, the same ones for every build: no address, and a shared plan only once."""
    example = str(Path(__file__).parents[1] / "examples" / "simple_gla.yaml")
    command = ["build", example, "--gpu", "h100", "--emit", "plan"]
    shown = []
    for _ in range(2):
        assert main(command) == 0
        shown.append(capsys.readouterr().out)
    assert shown[0] == shown[1] and " 0x" not in shown[0]
    lines = shown[0].splitlines()
    assert lines[:2] == ["SchedulePlan", "  name: linear"]
    assert max(map(len, lines)) < 200
    assert sum("plan: LinearPlan" in line and "above" not in line for line in lines) == 1


def test_sizes_that_do_not_fit_are_a_message(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("triton")
    (folder / "coupled.yaml").write_text(COUPLED, encoding="utf-8")
    assert main(["build", "coupled.yaml", "--gpu", "h100"]) == 1
    note, *_, error = capsys.readouterr().err.splitlines()
    assert note.startswith(
        "  Note: The token-serial schedule keeps K = 512, V = 512 in one program"
    )
    assert error == (
        "seqgen: The kernels refuse these sizes. coupled: one program must hold all of [K, V] = "
        "[512, 512], 262144 fp32 elements with padding; at most 16384 fit."
    )


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("seqgen_ops/a.py", "from seqgen_ops.a import a"),
        ("a.py", "from a import a"),
        ("../ops/a.py", "import sys; sys.path.insert(0, '../ops'); from a import a"),
        ("/x/a.py", "import sys; sys.path.insert(0, '/x'); from a import a"),
        ("my-ops/a.py", "import sys; sys.path.insert(0, 'my-ops'); from a import a"),
    ],
)
def test_import_line(file: str, line: str) -> None:
    assert _import_line(Path(file), "a") == line


def test_debug_shows_the_traceback(folder: Path) -> None:
    (folder / "wrong.yaml").write_text("operator: 7up\n", encoding="utf-8")
    root = str(Path(__file__).parents[1])
    command = [sys.executable, "-m", "seqgen", "--debug", "check", str(folder / "wrong.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=root)
    assert done.returncode == 1
    assert "Traceback" in done.stderr


def run(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """A command in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, "-m", "seqgen", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment)


def test_build_check_edit_build(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The report, the file, and whether the file is up to date, before and after an edit."""
    pytest.importorskip("triton")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert main(["build", "spec.yaml", "--gpu", "h100"]) == 0
    shown = capsys.readouterr()
    assert shown.out.startswith("fading_sum: family scan, schedule ")
    assert "\n  wrote seqgen_ops/fading_sum.py (" in shown.out
    assert "\n  compiled for h100 (bf16, default sizes):\n" in shown.out
    assert shown.out.endswith("\n    from seqgen_ops.fading_sum import fading_sum\n")
    assert re.search(r"\r  compiling for h100: 1/\d+, about \d+ s left ", shown.err)
    assert re.search(r"\r  compiling for h100: (\d+)/\1 +\n$", shown.err)
    heading, *rows = shown.out.split("default sizes):\n")[1].split("  done in")[0].splitlines()
    column = heading.index("knobs")
    rows = [row for row in rows if len(row) > column]  # some kernels have no knobs
    assert rows and all(row[column - 1] == " " != row[column] for row in rows)

    assert main(["check", "spec.yaml", "--built", "seqgen_ops"]) == 0
    assert capsys.readouterr().out.endswith("seqgen_ops/fading_sum.py: up to date\n")
    (folder / "spec.yaml").write_text(SPEC.replace("+ x", "+ 2 * x"), encoding="utf-8")
    assert main(["check", "spec.yaml", "--built", "seqgen_ops"]) == 1
    assert capsys.readouterr().err == (
        "seqgen_ops/fading_sum.py: it was built from another spec. Run 'seqgen build'.\n"
    )
    assert main(["check", "spec.yaml", "--built", "elsewhere"]) == 1
    assert capsys.readouterr().err == (
        "elsewhere/fading_sum.py: it is not there. Run 'seqgen build'.\n"
    )


def test_build_for_programs(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("triton")
    assert main(["build", "spec.yaml", "--gpu", "h100,mi300x", "-o", "ops", "--json"]) == 0
    one, two = json.loads(capsys.readouterr().out)
    assert (one["gpu"], two["gpu"]) == ("h100", "mi300x")
    assert one["file"] == "ops/h100/fading_sum.py" and (folder / one["file"]).exists()
    assert one["spec_hash"] == two["spec_hash"] and one["content_hash"] != two["content_hash"]
    assert one["passed"] and one["operator"] == "fading_sum" and one["family"] == "scan"
    for kernel in (*one["kernels"], *two["kernels"]):
        assert kernel["problem"] == "" and kernel["origin"] == (
            "default" if kernel["config"] else ""
        )
        assert 0 < kernel["resources"]["registers"] <= 255


def test_two_builds_at_once(folder: Path) -> None:
    pytest.importorskip("triton")
    with ThreadPoolExecutor(2) as threads:
        jobs = [
            threads.submit(run, "build", "spec.yaml", "--gpu", "h100", folder=folder)
            for _ in range(2)
        ]
        done = [job.result() for job in jobs]
    assert [d.returncode for d in done] == [0, 0], done
    assert [p.name for p in (folder / "seqgen_ops").iterdir() if p.is_file()] == ["fading_sum.py"]


def test_specs_of_one_name_are_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "copy.yaml").write_text(SPEC, encoding="utf-8")
    assert main(["build", "spec.yaml", "copy.yaml", "--gpu", "h100"]) == 2
    assert capsys.readouterr().err == (
        "spec.yaml and copy.yaml both define 'fading_sum'; one file would replace the other.\n"
    )
    assert not (folder / "seqgen_ops").exists()


def test_a_wrong_spec_stops_the_build_before_it_writes(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "wrong.yaml").write_text("operator: 7up\n", encoding="utf-8")
    assert main(["build", "spec.yaml", "wrong.yaml", "--gpu", "h100"]) == 2
    assert 'File "wrong.yaml", line 1' in capsys.readouterr().err
    assert not (folder / "seqgen_ops").exists()


def test_emit_and_json_do_not_go_together(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["build", "spec.yaml", "--gpu", "h100", "--emit", "ir", "--json"]) == 2
    assert capsys.readouterr().err == "'--emit' prints text; it does not go with '--json'.\n"


def test_a_folder_that_cannot_be_written(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["build", "spec.yaml", "--gpu", "h100", "-o", "spec.yaml"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("seqgen: spec.yaml/fading_sum.py cannot be written: ")
    assert error.count("\n") == 1 and (folder / "spec.yaml").read_text() == SPEC


def test_frozen_refuses_untuned_kernels(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["build", "spec.yaml", "--gpu", "h100", "--frozen"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("seqgen: 'fading_sum' has no tuned configuration on h100 for ")
    assert error.endswith("Run 'seqgen tune', or build without --frozen.\n")
    assert not (folder / "seqgen_ops").exists()


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["verify", "absent.yaml"], 2, "absent.yaml"),
        (["verify", "absent.py"], 2, "There is no file absent.py."),
        (["verify", "plain.py"], 1, "plain.py is not a seqgen module"),
        (["explain", "absent.yaml"], 2, "absent.yaml"),
        (["explain", "spec.yaml", "--gpu", "h1000"], 2, "There is no GPU called 'h1000'"),
        (["tune", "spec.yaml", "--dry-run", "--shapes", "B2,T?"], 2, "'T?' in shape 'B2,T?'"),
        (["tune", "spec.yaml", "--dry-run", "--budget", "soon"], 2, "'soon' is no budget"),
        (["tune", "absent.yaml", "--dry-run"], 2, "absent.yaml"),
        (["db", "import", "absent.jsonl"], 1, "Cannot read absent.jsonl"),
        (["db", "pin", "123"], 2, "123"),
    ],
)
def test_errors_of_commands(arguments: list[str], status: int, message: str, folder: Path) -> None:
    (folder / "plain.py").write_text("x = 1\n", encoding="utf-8")
    done = run(*arguments, folder=folder)
    assert (done.returncode, done.stdout) == (status, ""), done
    assert message in done.stderr and "Traceback" not in done.stderr


def test_what_argparse_refuses(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["build"], ["bild", "x"], ["verify", "spec.yaml", "--dtype", "fp8"]):
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        assert caught.value.code == 2
        assert "usage: seqgen" in capsys.readouterr().err


def test_gpus_and_explain(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["gpus"]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in ("h100", "b200", "rtx4090", "mi300x"))
    assert main(["explain", "spec.yaml"]) == 0
    assert "scan" in capsys.readouterr().out
    assert main(["explain", "spec.yaml", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["family"] == "scan"


def test_the_store_by_its_commands(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["db", "path"]) == 0
    assert str(folder / "tuning.sqlite") in capsys.readouterr().out
    for arguments in (["db", "stats"], ["db", "show"], ["db", "export", "out.jsonl"]):
        assert main(arguments) == 0, arguments
    assert main(["db", "import", "out.jsonl"]) == 0


def test_tune_shows_its_search_space(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tune", "spec.yaml", "--dry-run"]) == 0
    assert re.search(r"_forward: \d+ configurations \(", capsys.readouterr().out)


def test_tune_needs_the_gpu_here(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("there is one")
    assert main(["tune", "spec.yaml"]) == 2
    assert capsys.readouterr().err == (
        "Tuning measures on the GPU of this machine, and torch sees none here. Run it where the "
        "GPU is; '--dry-run' prints the search spaces anywhere.\n"
    )


def test_build_names_kernels_that_it_does_not_report(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("triton")
    example = str(Path(__file__).parents[1] / "examples" / "simple_gla.yaml")
    assert main(["build", example, "--gpu", "h100"]) == 0
    report = capsys.readouterr().out
    assert "\n    linear_backward " in report and "\n    recurrent_" not in report
    assert (
        "\n  compiled at first use: recurrent_forward, recurrent_backward "
        "(token-serial: decode step, short sequences)\n" in report
    )


def test_a_reader_that_leaves(folder: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    command = f"{sys.executable} -m seqgen build spec.yaml --gpu h100 --emit source | head -c 1"
    done = subprocess.run(
        command, shell=True, capture_output=True, text=True, cwd=folder, env=environment
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_check_imports_nothing_heavy(folder: Path) -> None:
    """It is run in editors and hooks: half a second."""
    command = (
        "import sys; from seqgen.cli import main; status = main(['check', 'spec.yaml']);"
        "heavy = {'torch', 'triton', 'numpy', 'optuna', 'sqlalchemy'} & set(sys.modules);"
        "sys.exit(f'{status} {heavy}' if status or heavy else 0)"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-c", command], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
