from seqgen.tune.search import Search, diverse, key_of

from .fakes import BEST, DEFAULT, SPACE, true_time


def test_suggestions_are_new_and_legal():
    search = Search(SPACE, 0)
    legal = {key_of(c) for c in SPACE.configs()}
    seen = set()
    for _ in range(6):
        for config in search.suggest(8):
            assert key_of(config) in legal - seen
            seen.add(key_of(config))
            search.tell(config, true_time(config))
    assert len(seen) == 48


def test_an_exhausted_space_gives_nothing_more():
    search = Search(SPACE, 0)
    for config in SPACE.configs():
        search.tell(config, true_time(config))
    assert search.suggest(4) == []


def test_what_it_learns_shows():
    def best_of_80(teach, seed):
        search = Search(SPACE, seed)
        tried = []
        while len(tried) < 80:
            for config in search.suggest(16):
                search.tell(config, teach(config))
                tried.append(true_time(config))
        return min(tried)

    taught = [best_of_80(true_time, seed) for seed in range(3)]
    untaught = [best_of_80(lambda config: 100.0, seed) for seed in range(3)]
    assert sum(taught) < 0.95 * sum(untaught)


def test_the_same_seed_suggests_the_same():
    assert Search(SPACE, 5).suggest(10) == Search(SPACE, 5).suggest(10)
    assert Search(SPACE, 5).suggest(10) != Search(SPACE, 6).suggest(10)


def test_neighbours_are_one_step_away():
    search = Search(SPACE, 0)
    around = search.neighbours(DEFAULT)
    assert len(around) == 9
    assert {**DEFAULT, "tma": True} in around
    search.tell(around[0], None)
    assert search.neighbours(DEFAULT) == around[1:]
    # BK = 128 with BV = 128 is not legal.
    assert {**BEST, "BK": 128} not in search.neighbours(BEST)


def test_diverse():
    clones = [{**DEFAULT, "BK": k} for k in (16, 32, 64, 128)]
    assert diverse([*clones, BEST], 3, 3) == [clones[0], BEST]
    assert diverse(clones, 3, 1) == clones[:3]


def test_a_space_contains_only_its_own_values():
    assert SPACE.contains(DEFAULT)
    assert not SPACE.contains({**DEFAULT, "BK": 48})
    assert not SPACE.contains({**DEFAULT, "BK": 128, "BV": 128})
    assert not SPACE.contains({**DEFAULT, "tma": 1})
    assert not SPACE.contains({**DEFAULT, "extra": 1})
    assert not SPACE.contains({k: v for k, v in DEFAULT.items() if k != "tma"})
