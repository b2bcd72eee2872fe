from dataclasses import replace

import pytest

from seqgen.plan.knobs import KernelSpace, Knob
from seqgen.store.exchange import write_records
from seqgen.store.records import Measurement, Verification
from seqgen.store.store import TuningStore
from seqgen.tune.search import key_of
from seqgen.tune.seeds import find_seeds

from .fakes import BEST, DEFAULT, QUERY, SPACE, Clock, FakeBench, true_time


def test_search_and_polish_find_the_best(tune, store):
    bench = FakeBench()
    result = tune(bench)
    assert result.winner.candidate.config == BEST
    assert result.winner.default_us == true_time(DEFAULT)
    assert result.ended == "complete"
    assert result.tried < len(list(SPACE.configs())) / 2
    choice = store.lookup(QUERY.kernel, QUERY.problem, QUERY.device, QUERY.toolchain)
    assert (choice.config, choice.origin) == (BEST, "tuned")


def test_nothing_is_measured_twice_and_all_is_legal(tune):
    bench = FakeBench()
    result = tune(bench)
    assert len(set(bench.timed)) == len(bench.timed) == result.tried
    assert set(bench.timed) <= {key_of(c) for c in SPACE.configs()}


def test_the_same_seed_tries_the_same(tune):
    first, second = FakeBench(), FakeBench()
    tune(first)
    # The store knows more now, so the incumbent is raced early; the winner is the same.
    assert tune(second, session="s2").winner.candidate.config == BEST
    assert first.timed[0] == second.timed[0] == key_of(DEFAULT)
    assert second.timed[1] == key_of(BEST)


def test_the_default_is_raced_and_wins_ties(tune):
    bench = FakeBench(time_of=lambda c: 100.0 if c == DEFAULT else 99.5)
    result = tune(bench)
    assert result.winner.candidate.config == DEFAULT
    assert bench.raced[0][0] == key_of(DEFAULT)


def test_wrong_configurations_do_not_win_however_fast(tune, store):
    bench = FakeBench(wrong=lambda c: c["num_warps"] == 8)
    result = tune(bench)
    assert result.winner.candidate.config == {**BEST, "num_warps": 4}
    assert result.wrong > 0
    assert not {key_of(BEST)} & set(bench.raced[0])
    outcomes = {r.outcome for r in store.records() if isinstance(r, Verification)}
    assert outcomes == {"ok", "racy"}


def test_only_what_is_promising_goes_through_the_gate(tune):
    bench = FakeBench()
    tune(bench)
    assert key_of(DEFAULT) in bench.judged
    assert len(bench.judged) < len(bench.timed) / 2
    assert {key for key, gate in bench.compiled if gate} >= set(bench.judged)


def test_crashes_and_rejections_cost_one_candidate_each(tune, store):
    bench = FakeBench(rejected=lambda c: c["BV"] == 128, crashing=lambda c: c["num_stages"] == 4)
    result = tune(bench)
    best = {**BEST, "BV": 64}
    assert result.winner.candidate.config == best
    assert result.rejected > 0
    assert not any('"BV":128' in key for key in bench.timed)
    statuses = {r.status for r in store.records() if isinstance(r, Measurement)}
    assert statuses == {"ok", "rejected", "crashed"}


def test_where_nothing_is_right_there_is_no_winner_and_an_early_end(tune):
    bench = FakeBench(wrong=lambda c: True)
    result = tune(bench)
    assert result.winner is None
    assert bench.raced == []
    assert len(bench.judged) <= 2 * 16 + 1


def test_out_of_time_the_default_is_still_measured(tune):
    clock = Clock()
    bench = FakeBench(clock=clock)
    result = tune(bench, seconds=0.0, now=clock)
    assert bench.timed == [key_of(DEFAULT)]
    assert result.winner.candidate.config == DEFAULT
    assert result.ended == "budget"


def test_the_budget_ends_the_search(tune):
    clock = Clock()
    bench = FakeBench(clock=clock)
    result = tune(bench, seconds=40.0, now=clock)
    assert result.ended == "budget"
    assert 20 < len(bench.timed) <= 40
    assert result.winner is not None


class Killed(BaseException):
    pass


@pytest.mark.parametrize("moment", [1, 17])
def test_resume_after_a_kill_goes_on_where_it_was(tune, store, moment):
    def deadly(config):
        if len(killed.timed) == moment:
            raise Killed
        return true_time(config)

    killed = FakeBench(time_of=deadly)
    with pytest.raises(Killed):
        tune(killed)
    done = set(killed.timed[:-1])
    kept = {key_of(r.config) for r in store.records() if isinstance(r, Measurement)}
    assert kept == done

    judged = {key_of(r.config) for r in store.records() if isinstance(r, Verification)}
    resumed = FakeBench()
    result = tune(resumed, session="s2", resume=True)
    assert not done & set(resumed.timed)
    assert not judged & set(resumed.judged)
    assert result.winner.candidate.config == BEST
    assert result.tried == len(done | set(resumed.timed))


def test_without_resume_everything_is_measured_anew(tune):
    tune(FakeBench())
    again = FakeBench()
    tune(again, session="s2")
    assert key_of(DEFAULT) in again.timed


def test_resume_does_not_try_crashes_again(tune):
    tune(FakeBench(crashing=lambda c: c["num_warps"] == 8))
    again = FakeBench()
    result = tune(again, session="s2", resume=True)
    assert result.winner.candidate.config["num_warps"] == 4


def test_a_small_space_is_tried_in_full(tune):
    space = KernelSpace("chunk", "fwd", (Knob("BK", (16, 32, 64)),), {"BK": 16})
    bench = FakeBench(time_of=lambda c: 1000.0 / c["BK"])
    result = tune(bench, space=space)
    assert (result.tried, result.winner.candidate.config) == (3, {"BK": 64})


def test_records_of_strangers_are_seeds(tune, store, tmp_path):
    tune(FakeBench())
    theirs = tmp_path / "theirs.jsonl"
    theirs.write_text("".join(write_records(store.records())))
    with TuningStore.open(tmp_path / "mine.sqlite", bundled=tmp_path / "shipped") as mine:
        mine.import_file(theirs)
        assert mine.lookup(QUERY.kernel, QUERY.problem, QUERY.device, QUERY.toolchain) is None
        assert find_seeds(mine.records(), QUERY, SPACE)[0] == BEST
        narrow = replace(SPACE, knobs=SPACE.knobs[:-1])
        assert find_seeds(mine.records(), QUERY, narrow) == []
