"""All operators that are raced, by name."""

from __future__ import annotations

from benchmarks.delta_operators import DELTA
from benchmarks.linear_operators import LINEAR

OPERATORS = {operator.name: operator for operator in (*LINEAR, *DELTA)}
