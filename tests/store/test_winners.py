import itertools
import random

from seqgen.store.winners import Candidate, decide, derive

from .conftest import DEFAULT, FAST, measured, verified

OTHER = {"BK": 32, "num_warps": 4}


def candidate(name, score, **more):
    return Candidate({"BK": name}, score, score * 100, **more)


def test_a_default_within_one_percent_wins():
    won = decide([candidate(1, 1.009, role="default"), candidate(2, 1.0)], noise=0.0)
    assert won.candidate.config == {"BK": 1}
    assert won.tied == 1


def test_a_default_beyond_the_tie_loses():
    won = decide([candidate(1, 1.011, role="default"), candidate(2, 1.0)], noise=0.0)
    assert won.candidate.config == {"BK": 2}
    assert won.default_us == 101.1


def test_the_tie_widens_to_twice_the_noise():
    race = [candidate(1, 1.03, role="default"), candidate(2, 1.0)]
    assert decide(race, noise=0.016).candidate.config == {"BK": 1}
    assert decide(race, noise=0.014).candidate.config == {"BK": 2}


def test_ties_go_to_incumbent_then_spills_then_shared_memory_then_text():
    order = [
        candidate(5, 1.004, role="incumbent", spills=9),
        candidate(4, 1.003, spills=0, shared_bytes=10),
        candidate(3, 1.002, spills=0, shared_bytes=20),
        candidate(1, 1.001, spills=1),
        candidate(2, 1.000, spills=1),
    ]
    while order:
        for shuffled in itertools.islice(itertools.permutations(order), 24):
            assert decide(shuffled, noise=0.0).candidate == order[0]
        order.pop(0)


def test_only_verified_configurations_win():
    measurements = [measured(DEFAULT, 100.0), measured(FAST, 50.0), measured(OTHER, 60.0)]
    good = [verified(DEFAULT), verified(OTHER)]
    assert derive(measurements, good).candidate.config == OTHER
    racy = [*good, verified(FAST), verified(FAST, "racy"), verified(OTHER, "racy")]
    assert derive(measurements, racy).candidate.config == DEFAULT
    assert derive(measurements, []) is None


def test_final_times_decide_where_there_are_any():
    search = [measured(FAST, 10.0, rung="search"), measured(DEFAULT, 100.0, rung="search")]
    checks = [verified(FAST), verified(DEFAULT), verified(OTHER)]
    assert derive(search, checks).candidate.config == FAST
    finals = [*search, measured(OTHER, 80.0), measured(DEFAULT, 100.0)]
    assert derive(finals, checks).candidate.config == OTHER


def test_sessions_are_pooled_as_ratios_to_their_default():
    # The second session ran on a slow clock: in microseconds FAST would seem to lose.
    fast = [measured(FAST, 80.0), measured(FAST, 160.0, session="s2")]
    slow = [measured(DEFAULT, 100.0), measured(DEFAULT, 200.0, session="s2")]
    other = [measured(OTHER, 90.0)]
    won = derive([*fast, *slow, *other], [verified(c) for c in (FAST, DEFAULT, OTHER)])
    assert won.candidate.config == FAST
    assert won.candidate.score == 0.8


def test_the_order_of_records_does_not_matter():
    measurements = [
        measured({"BK": 2**i, "num_warps": 4}, 100 + 0.2 * i, session=f"s{j}", role="candidate")
        for i in range(6)
        for j in range(2)
    ]
    checks = [verified({"BK": 2**i, "num_warps": 4}) for i in range(6)]
    expected = derive(measurements, checks)
    for seed in range(10):
        random.Random(seed).shuffle(measurements)
        assert derive(measurements, checks) == expected
