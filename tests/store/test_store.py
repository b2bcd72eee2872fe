import itertools
from dataclasses import replace

import pytest

from seqgen.store.exchange import write_records
from seqgen.store.models import BUNDLED, LOCAL
from seqgen.store.store import TuningStore

from .conftest import (
    A100,
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

NEAR = replace(PROBLEM, load=6)
FAR = replace(PROBLEM, load=9, length=10)
WIDE = replace(PROBLEM, sizes={"K": 256, "V": 128})


def ask(store, problem=PROBLEM, device=H200, toolchain=TOOLCHAIN, **more):
    return store.lookup(KERNEL, problem, device, toolchain, POLICY, **more)


def shipped(folder, records, name="h200.jsonl"):
    (folder / name).write_text("".join(write_records(records)))


def test_an_empty_store_knows_nothing(store):
    assert ask(store) is None
    assert store.records() == []


def test_records_come_back_as_they_were(store):
    store.record(*race())
    store.record(*race())
    assert {r.record_id: r for r in store.records()} == {r.record_id: r for r in race()}


def test_exact_answer(store):
    store.record(*race())
    choice = ask(store)
    assert (choice.config, choice.origin, choice.median_us) == (FAST, "tuned", 80.0)
    assert choice.reason == (
        "Measured on NVIDIA H200 with Triton 3.6.0: 80.0 us, default 100.0 us."
    )


def test_nearest_bucket_of_the_same_shape(store):
    store.record(*race(problem=NEAR), *race(problem=FAR), *race(problem=WIDE))
    choice = ask(store)
    assert (choice.problem, choice.origin) == (NEAR, "neighbour")
    assert "in bucket load 6, length 14 (wanted 5, 14)" in choice.reason


def test_a_neighbour_bucket_goes_before_a_sibling_device(store):
    store.record(*race(device=H100, gpu="NVIDIA H100"), *race(device=A100))
    choice = ask(store)
    assert (choice.device, choice.origin) == (H100, "sibling")
    assert "Measured on NVIDIA H100" in choice.reason
    assert "another GPU of this architecture" in choice.reason
    store.record(*race(problem=NEAR))
    assert ask(store).origin == "neighbour"


def test_another_toolchain_kernel_or_architecture_is_no_answer(store):
    store.record(*race(device=A100))
    assert ask(store) is None
    store.record(*race())
    assert ask(store, toolchain=replace(TOOLCHAIN, triton="3.9.0")) is None
    other = replace(KERNEL, source_hash="b" * 64)
    assert store.lookup(other, PROBLEM, H200, TOOLCHAIN) is None


def test_a_pin_goes_first_and_can_be_taken_back(store):
    store.record(*race())
    slow = measured(DEFAULT, 100.0)
    store.pin(slow)
    assert (ask(store).config, ask(store).origin) == (DEFAULT, "pinned")
    assert ask(store, problem=NEAR).origin == "neighbour"
    assert store.unpin(slow)
    assert not store.unpin(slow)
    assert ask(store).config == FAST


def test_configurations_outside_the_domain_are_not_seen(store):
    store.record(*race())
    choice = ask(store, accept=lambda problem, config: config["BK"] <= 64)
    assert choice.config == DEFAULT
    assert ask(store, accept=lambda problem, config: False) is None


def test_imported_records_are_seeds_only(store, tmp_path):
    file = tmp_path / "theirs.jsonl"
    file.write_text("".join(write_records([*race(), measured(FAST, 0.001, session="forged")])))
    assert store.import_file(file) == (5, 5)
    assert store.import_file(file) == (0, 5)
    assert ask(store) is None
    assert store.records(min_trust=BUNDLED) == []
    # Their failures do not take out what was verified here.
    file.write_text("".join(write_records([verified(FAST, "racy")])))
    store.record(*race())
    store.import_file(file)
    assert ask(store).config == FAST


def test_local_records_decide_before_shipped_ones(tmp_path, empty):
    shipped(empty, race())
    with TuningStore.open(tmp_path / "t.sqlite", bundled=empty) as store:
        choice = ask(store)
        assert (choice.config, choice.origin) == (FAST, "tuned")
        assert "(shipped record)" in choice.reason
        store.record(measured(DEFAULT, 70.0, session="mine"), verified(DEFAULT, session="mine"))
        assert ask(store).config == DEFAULT


def test_a_shipped_winner_that_fails_here_is_not_used(tmp_path, empty):
    shipped(empty, race())
    with TuningStore.open(tmp_path / "t.sqlite", bundled=empty) as store:
        store.record(verified(FAST, "racy", session="mine"))
        assert ask(store).config == DEFAULT


def test_a_changed_shipped_file_is_loaded_again(tmp_path, empty):
    shipped(empty, race())
    TuningStore.open(tmp_path / "t.sqlite", bundled=empty).close()
    better = [measured(DEFAULT, 100.0, session="s2"), verified(DEFAULT)]
    shipped(empty, better)
    with TuningStore.open(tmp_path / "t.sqlite", bundled=empty) as store:
        assert ask(store).config == DEFAULT
        # What the new file no longer has is kept, but decides nothing any more.
        assert len(store.records()) == 5
        assert len(store.records(min_trust=BUNDLED)) == 2


def test_shipped_files_add_up(tmp_path, empty):
    shipped(empty, race())
    shipped(empty, race(device=A100), "a100.jsonl")
    with TuningStore.open(tmp_path / "t.sqlite", bundled=empty) as store:
        assert ask(store).origin == "tuned"
        assert ask(store, device=A100).origin == "tuned"


def test_merging_is_the_union_in_any_order(tmp_path, empty):
    parts = [race(), race(session="s2"), [*race(problem=NEAR), *race()]]
    files = []
    for i, part in enumerate(parts):
        files.append(tmp_path / f"{i}.jsonl")
        files[-1].write_text("".join(write_records(part)))
    merged = set()
    for order in itertools.permutations(files):
        with TuningStore.open("sqlite://", bundled=empty) as store:
            for file in order:
                store.import_file(file)
            store.record(*race(session="mine"))
            merged.add("".join(write_records(store.records())))
            assert len(store.records(min_trust=LOCAL)) == 4
    assert len(merged) == 1
    assert merged.pop().count("\n") == 1 + len({r.record_id for p in parts for r in p}) + 2


def test_importing_what_was_measured_here_keeps_it_local(store, tmp_path):
    file = tmp_path / "mine.jsonl"
    file.write_text("".join(write_records(race())))
    store.import_file(file)
    assert ask(store) is None
    store.record(*race())
    store.import_file(file)
    assert len(store.records(min_trust=LOCAL)) == 4
    assert ask(store).config == FAST


def test_choices_lists_every_bucket_under_its_own_name(store):
    store.record(*race(), *race(problem=NEAR), *race(problem=WIDE), *race(device=H100))
    store.record(*race(problem=FAR, device=H100), *race(problem=replace(WIDE, load=1), device=A100))
    found = {
        (c.problem.load, c.problem.sizes["K"]): c.origin
        for c in store.choices(KERNEL, H200, TOOLCHAIN)
    }
    assert found == {(5, 128): "tuned", (6, 128): "tuned", (5, 256): "tuned"}
    on_h100 = {c.problem.load: c.origin for c in store.choices(KERNEL, H100, TOOLCHAIN)}
    assert on_h100 == {5: "sibling", 9: "tuned"}


def test_an_invalid_record_leaves_no_trace(store):
    with pytest.raises(ValueError, match=r"measurement\.gpu must be text"):
        store.record(measured(), measured(gpu="/root/secret", session="s2"))
    assert store.records() == []
