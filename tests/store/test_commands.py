from dataclasses import replace

import pytest

from seqgen.errors import UsageError
from seqgen.store import commands
from seqgen.store.exchange import read_records, write_records
from seqgen.store.lookup import Query

from .conftest import (
    DEFAULT,
    FAST,
    H100,
    H200,
    KERNEL,
    POLICY,
    PROBLEM,
    TOOLCHAIN,
    measured,
    race,
    verified,
)

QUERY = Query(KERNEL, PROBLEM, H200, TOOLCHAIN, POLICY)


def test_path(monkeypatch):
    monkeypatch.setenv("SEQGEN_TUNING_DB", "/x/y.sqlite")
    assert commands.path() == "/x/y.sqlite"
    assert commands.path("/z.sqlite") == "/z.sqlite"


def test_show(store):
    assert commands.show(store) == f"No records in {store.name}."
    store.record(*race(), measured(problem=replace(PROBLEM, load=7)))
    header, first, second = commands.show(store).splitlines()
    columns = "record op kernel dtype sizes load length gpu triton us default config"
    assert " ".join(header.split()) == columns
    record = measured().record_id[:12]
    where = f"{record} gla chunk_fwd bf16 K=128,V=128 5 14 NVIDIA H200 3.6.0"
    assert " ".join(first.split()) == f"{where} 80.0 100.0 BK=128 num_warps=8"
    # The verification holds for all buckets of the shape, so the second is usable too.
    usable = "7 14 NVIDIA H200 3.6.0 80.0 - BK=128 num_warps=8"
    assert " ".join(second.split()[5:]) == usable
    assert commands.show(store, "kda").startswith("No records for operator kda")


def test_stats(store):
    store.record(*race(), verified({"BK": 16}, "racy"), measured({"BK": 8}, None, status="crashed"))
    assert commands.stats(store).splitlines() == [
        f"Database      {store.name}",
        "Records       6: 6 local, 0 shipped, 0 imported seeds",
        "Measurements  1 crashed, 2 ok",
        "Verifications 2 ok, 1 racy",
        "Operators     1",
        "Kernels       1",
        "GPUs          NVIDIA H200",
    ]


def test_export_and_import(store, tmp_path):
    search = measured({"BK": 16}, 120.0, rung="search")
    store.record(*race(), search)
    target = tmp_path / "out" / "h200.jsonl"
    assert commands.export_file(store, target) == f"Wrote 5 records to {target}."
    first = target.read_bytes()
    assert commands.export_file(store, target) == f"Wrote 5 records to {target}."
    assert target.read_bytes() == first
    assert commands.export_file(store, target, finals=True) == f"Wrote 4 records to {target}."
    assert search not in list(read_records(target))
    assert commands.export_file(store, target, op="kda") == f"Wrote 0 records to {target}."
    assert [p.name for p in target.parent.iterdir()] == ["h200.jsonl"]

    target.write_text("".join(write_records(race(session="theirs"))))
    assert "Read 4 records" in (said := commands.import_file(store, target))
    assert "2 of them new" in said  # verifications are of session s1 in both
    assert commands.export_file(store, target) == f"Wrote 5 records to {target}."


def test_export_to_an_impossible_place(store, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="Cannot write"):
        commands.export_file(store, tmp_path / "file" / "x.jsonl")


def test_pin(store):
    store.record(*race(), measured({"BK": 8}, 10.0), verified({"BK": 8}, "racy"))
    slow = measured(DEFAULT, 100.0).record_id
    assert commands.pin(store, slow[:12]) == "Pinned gla chunk_fwd to BK=64 num_warps=4."
    assert commands.why_miss(store, QUERY) == "Hit. Pinned by 'seqgen db pin'."
    assert commands.unpin(store, slow[:12]) == "Unpinned gla chunk_fwd."
    assert commands.unpin(store, slow[:12]) == "There was no pin on gla chunk_fwd."
    with pytest.raises(UsageError, match="cannot be pinned: its configuration is racy"):
        commands.pin(store, measured({"BK": 8}, 10.0).record_id)
    with pytest.raises(UsageError, match="No measurement with a time found whose"):
        commands.pin(store, "000000")
    with pytest.raises(UsageError, match="is no record id"):
        commands.pin(store, "ab%")


def test_why_miss(store):
    missing = "Miss: the default is used.\n  No record of gla chunk_fwd. Run 'seqgen tune'."
    assert commands.why_miss(store, QUERY) == missing
    store.record(*race())
    assert commands.why_miss(store, QUERY).startswith("Hit. Measured on NVIDIA H200")
    newer = replace(QUERY, toolchain=replace(TOOLCHAIN, triton="3.9.0"))
    first, rest = commands.why_miss(store, newer).split("\n", 1)
    assert first.startswith("Uses one of Triton 3.6.0. Measured on NVIDIA H200")
    assert rest == "  toolchain: triton: 3.6.0 stored, 3.9.0 wanted"
    edited = replace(QUERY, kernel=replace(KERNEL, source_hash="b" * 64))
    assert commands.why_miss(store, edited) == (
        f"Miss: the default is used.\n  kernel: source_hash: {'a' * 64} stored, {'b' * 64} wanted"
    )
    elsewhere = replace(QUERY, device=H100)
    lines = commands.why_miss(store, elsewhere).splitlines()
    assert lines[0].startswith("Uses sibling. Measured on NVIDIA H200")
    assert lines[1:] == [
        "  device: l2_bytes: 62914560 stored, 52428800 wanted",
        "  device: memory_gbps: 4800 stored, 3350 wanted",
    ]


def test_why_records_of_the_same_keys_do_not_decide(store, tmp_path):
    file = tmp_path / "theirs.jsonl"
    file.write_text("".join(write_records(race())))
    store.import_file(file)
    assert "The records are imported seeds" in commands.why_miss(store, QUERY)
    store.record(measured(FAST, 80.0, session="mine"))
    assert "both timed and verified" in commands.why_miss(store, QUERY)
    said = commands.why_miss(store, QUERY, lambda problem, config: False)
    assert "outside the domain" in said
