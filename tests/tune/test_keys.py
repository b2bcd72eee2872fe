import pytest

from seqgen.gpu.table import GPUS
from seqgen.store.keys import DeviceKey
from seqgen.tune.keys import device_key, kernel_key, kernel_source, toolchain_key

MODULE = '''
"""A generated file."""
CONFIGS = {"fwd": [{"config": {"BK": 64}}]}

@triton.jit
def helper(x):
    """About."""
    return x + 1

@triton.jit
def other_kernel(x):
    return x

@triton.jit
def fwd_kernel(x, BK: tl.constexpr):
    # a comment
    return helper(x)

def _config(kernel, key):
    return CONFIGS[kernel]

def launch_fwd(x):
    config = _config("fwd", 1)
    fwd_kernel[(1,)](x, **config)

def launch_other(x):
    other_kernel[(2,)](x)
'''


def key(module, kernel="fwd"):
    return kernel_key("op", kernel, "fwd", "0" * 64, module).source_hash


def test_the_source_of_a_kernel_is_all_that_it_calls():
    source = kernel_source(MODULE, "fwd")
    assert "def launch_fwd" in source
    assert "def fwd_kernel" in source
    assert "def helper" in source
    assert "other" not in source
    assert "def _config" not in source
    assert "About." not in source


@pytest.mark.parametrize(
    "change",
    [
        ("# a comment", "# another comment"),
        ("About.", "About something else."),
        ('"BK": 64', '"BK": 128'),
        ("return x\n", "return x * 3\n"),
        ("CONFIGS[kernel]", "CONFIGS[kernel][0]"),
    ],
)
def test_what_does_not_change_the_code_does_not_change_the_key(change):
    assert change[0] in MODULE
    assert key(MODULE.replace(*change)) == key(MODULE)


@pytest.mark.parametrize(
    "change",
    [("x + 1", "x + 2"), ("return helper(x)", "return helper(x) * 2"), ("[(1,)]", "[(4,)]")],
)
def test_what_changes_the_code_changes_the_key(change):
    assert key(MODULE.replace(*change)) != key(MODULE)


def test_shared_knobs_depend_on_every_kernel():
    assert key(MODULE, "operator") != key(MODULE.replace("(2,)", "(3,)"), "operator")
    assert key(MODULE) == key(MODULE.replace("(2,)", "(3,)"))


def test_a_kernel_without_launcher():
    with pytest.raises(KeyError, match="launch_none"):
        kernel_source(MODULE, "none")


def test_device_and_toolchain_keys():
    by_name = {gpu.name: device_key(gpu) for gpu in GPUS}
    assert isinstance(by_name["h200"], DeviceKey)
    assert by_name["h200"].arch == by_name["h100"].arch == "sm_90"
    assert len({k.hash for k in by_name.values()}) == len(by_name)
    import triton

    assert toolchain_key().triton == triton.__version__
