import io

import pytest

from seqgen.store.store import TuningStore
from seqgen.tune.kernel_tuner import KernelTuner, Options
from seqgen.tune.progress import Progress

from .fakes import QUERY, SPACE


@pytest.fixture
def store(tmp_path):
    shipped = tmp_path / "shipped"
    shipped.mkdir()
    with TuningStore.open(tmp_path / "tuning.sqlite", bundled=shipped) as opened:
        yield opened


@pytest.fixture
def tune(store):
    """Tunes the fake kernel with a bench and options."""

    def run(bench, session="s1", seconds=1e6, now=None, space=SPACE, **options):
        more = {} if now is None else {"now": now}
        options.setdefault("evaluations", 40)
        return KernelTuner(
            space,
            QUERY,
            {"B": 2, "T": 16384},
            bench,
            store,
            Options(budget=seconds, **options),
            session=session,
            seconds=seconds,
            progress=Progress(io.StringIO()),
            **more,
        ).run()

    return run
