"""Which configuration a kernel runs with: the nearest of those listed in CONFIGS."""

from functools import lru_cache

import torch

_DTYPES = {
    torch.float32: "fp32",
    torch.float16: "fp16",
    torch.bfloat16: "bf16",
}


def _cdiv(size, block):
    """How many blocks cover ``size``. Triton's own is made for kernels: 50 times the time here."""
    return -(-size // block)


def _power_of_2(size):
    """The least power of two that is not below ``size``; 1 for 0."""
    return 1 << max(size - 1, 0).bit_length()


@lru_cache(maxsize=4096)
def _key(dtype, load, length, **sizes):
    """What the choice may depend on: dtype, padded tile sizes, parallel work, sequence length."""
    padded = tuple((axis, _power_of_2(size)) for axis, size in sizes.items())
    return (_DTYPES[dtype], padded, max(load, 1).bit_length() - 1, max(length, 1).bit_length() - 1)


@lru_cache(maxsize=4096)
def _config(kernel, key):
    """The configuration of ``kernel`` for ``key``; entries without sizes fit everything."""
    dtype, sizes, load, length = key
    wanted = dict(sizes)

    def distance(entry):
        if "sizes" not in entry:
            return (1, 0, 0)
        same = entry["dtype"] == dtype and entry["sizes"] == wanted
        return (0 if same else 2, abs(entry["load"] - load), abs(entry["length"] - length))

    return min(CONFIGS[kernel], key=distance)["config"]  # noqa: F821
