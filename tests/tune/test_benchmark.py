from seqgen.tune.benchmark import MAXIMUM, SIZING, WARM_UP, finals, measure, timing_of


class FakeClock:
    """Calls return their own time; the clock only notes the order."""

    def __init__(self):
        self.calls = []

    def __call__(self, calls):
        self.calls += calls
        return [call() for call in calls]


def test_quantiles_and_deviation():
    timing = timing_of([9.0, 1.0, 2.0, 3.0, 4.0, 100.0])
    assert (timing.repetitions, timing.median_us) == (6, 3.5)
    assert (timing.p20_us, timing.p80_us, timing.mad_us) == (2.0, 9.0, 2.0)


def test_short_calls_are_repeated_most():
    clock = FakeClock()
    timing = measure(lambda: 10.0, clock)
    assert timing.repetitions == SIZING + MAXIMUM
    assert len(clock.calls) == WARM_UP + SIZING + MAXIMUM
    assert measure(lambda: 10_000.0, clock).repetitions == 2 * SIZING


def test_hopeless_calls_are_not_repeated():
    assert measure(lambda: 10.0, FakeClock(), limit_us=9.0).repetitions == SIZING
    assert measure(lambda: 10.0, FakeClock(), limit_us=10.0).repetitions > SIZING


def test_finals_interleave_and_measure_the_noise():
    clock = FakeClock()
    times = iter(range(10**6))

    def drifting():
        return 100.0 + 1e-3 * next(times)

    calls = [drifting, lambda: 50.0]
    timings, noise = finals(calls, clock, seconds=1.0, seed=0)
    assert [t.repetitions for t in timings] == [200, 200]
    # The drift meets both twins alike: their medians hardly differ.
    assert 0 < noise < 1e-3
    rounds = clock.calls[-600:]
    assert all(rounds[i : i + 3].count(calls[1]) == 1 for i in range(0, 600, 3))
    assert len({tuple(map(id, rounds[i : i + 3])) for i in range(0, 600, 3)}) == 3


def test_slow_finals_are_fewer():
    timings, _ = finals([lambda: 50_000.0], FakeClock(), seconds=1.0, seed=0)
    assert timings[0].repetitions == 20
