"""The five keys under which a measurement is filed, each kept in clear and as a hash.

A key holds only what changes the answer. Names, dates, drivers and exact shapes are data of the
measurement: in a key they would hide results that are still valid. The list of configurations
that were tried is not in any key either, so adding one loses nothing.
"""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

Role = Literal["fwd", "bwd", "step"]
Dtype = Literal["fp32", "fp16", "bf16"]


def canonical_json(value: object) -> str:
    """The one JSON text of ``value``: sorted keys, no spaces, ASCII, no NaN."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False
    )


def content_hash(value: object) -> str:
    """sha256 of the canonical JSON of ``value``, as 64 hexadecimal digits."""
    return hashlib.sha256(canonical_json(value).encode("ascii")).hexdigest()


def source_hash(source: str) -> str:
    """Hash of Python source that comments, blank lines and line breaks do not change.

    Args:
        source: text of one kernel and its helpers, knobs as ``tl.constexpr`` parameters.
    """
    # Not ast.dump: that text changes with the version of Python.
    return hashlib.sha256(ast.unparse(ast.parse(source)).encode()).hexdigest()


def log2_bucket(count: int) -> int:
    """``floor(log2(count))``, and 0 for counts below 1."""
    return max(count, 1).bit_length() - 1


@dataclass(frozen=True)
class _Key:
    def clear(self) -> dict[str, Any]:
        """The fields as JSON values."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {k: dict(v) if isinstance(v, Mapping) else v for k, v in values.items()}

    @property
    def hash(self) -> str:
        return content_hash(self.clear())


@dataclass(frozen=True)
class KernelKey(_Key):
    """Which code was measured.

    ``kernel`` as in ``launch_<kernel>``. ``spec_hash`` is that of the canonical recurrence,
    ``source_hash`` that of the kernel's source with knobs symbolic (``source_hash()``).
    """

    op: str
    kernel: str
    role: Role
    spec_hash: str
    source_hash: str


@dataclass(frozen=True)
class ProblemKey(_Key):
    """Which bucket of problems, as ``CONFIGS`` in generated modules has it.

    ``sizes``: next power of two of each tile axis. ``load``: floor(log2(sequences x heads-like
    programs)). ``length``: floor(log2(T)).
    """

    dtype: Dtype
    sizes: Mapping[str, int]
    load: int
    length: int

    def same_shape(self, other: ProblemKey) -> bool:
        """Same dtype and tile sizes: a configuration legal for one is legal for the other."""
        return self.dtype == other.dtype and dict(self.sizes) == dict(other.sizes)

    def distance(self, other: ProblemKey) -> int:
        """Powers of two in load and length between two buckets of the same shape."""
        return abs(self.load - other.load) + abs(self.length - other.length)


@dataclass(frozen=True)
class DeviceKey(_Key):
    """Which silicon. The marketing name is data, since one chip is sold under several.

    ``shared_bytes`` is the opt-in limit per block; ``memory_gbps`` tells chips apart that share
    arch and multiprocessors (H100 and H200); ``mig`` is empty for a whole GPU. Take the values
    from the table of GPUs, not from the driver, so that a laptop computes the same key.
    """

    vendor: str
    arch: str
    sm_count: int
    shared_bytes: int
    l2_bytes: int
    memory_gbps: int
    mig: str = ""


@dataclass(frozen=True)
class ToolchainKey(_Key):
    """Which compilers turned the source into machine code."""

    triton: str
    ptxas: str
    codegen: int


@dataclass(frozen=True)
class PolicyKey(_Key):
    """How time was measured: version of the protocol, state of the L2, kind of launch."""

    protocol: int = 1
    cache: Literal["cold", "warm"] = "cold"
    launch: Literal["eager", "graph"] = "eager"
