import pytest

import seqgen
from tests.operator.operators import NAMES, SPECS


@pytest.fixture(scope="session")
def load(tmp_path_factory):
    """Builds the operator of a spec by name, once."""
    modules = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SEQGEN_CACHE", str(tmp_path_factory.mktemp("cache")))

        def get(name):
            if name not in modules:
                modules[name] = seqgen.load_operator(SPECS[name], gpu="h100")
            return modules[name]

        yield get


@pytest.fixture(params=NAMES)
def module(request, load):
    """Each of the contrasting operators in turn."""
    return load(request.param)
