"""What others know: configurations that won under similar keys, to be raced first."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from seqgen.plan.knobs import Config, KernelSpace
from seqgen.store.keys import ToolchainKey
from seqgen.store.lookup import Query
from seqgen.store.records import Measurement, Record, Verification
from seqgen.tune.search import diverse, key_of

SEEDS = 3
APART = 3
"""Knobs by which seeds differ: eight clones of one bad idea would mislead the search."""


def find_seeds(records: Iterable[Record], query: Query, space: KernelSpace) -> list[Config]:
    """Up to three diverse configurations out of records of the same operator and kernel.

    Other buckets, devices, compilers and versions of the kernel all count, and so do records
    of strangers: a seed is checked against the space, verified and timed like any candidate.

    Args:
        records: of any trust.
        query: what is to be tuned.
        space: the domain; nothing outside comes back.
    """
    groups: dict[str, list[Measurement]] = defaultdict(list)
    failed: set[tuple[ToolchainKey, str]] = set()
    for record in records:
        same = (record.kernel.op, record.kernel.kernel) == (query.kernel.op, query.kernel.kernel)
        if not same or not space.contains(record.config):
            continue
        if isinstance(record, Verification):
            if record.outcome != "ok":
                failed.add((record.toolchain, key_of(record.config)))
        elif record.status == "ok":
            groups[_group(record)].append(record)
    best = [
        min(usable, key=lambda m: (m.median_us or 0.0, key_of(m.config)))
        for group in groups.values()
        if (usable := [m for m in group if (m.toolchain, key_of(m.config)) not in failed])
    ]
    best.sort(key=lambda m: (_unlikeness(m, query), m.record_id))
    return diverse([m.config for m in best], SEEDS, min(APART, max(len(space.knobs) - 1, 1)))


def _group(m: Measurement) -> str:
    return "".join(k.hash for k in (m.kernel, m.problem, m.device, m.toolchain, m.policy))


def _unlikeness(m: Measurement, query: Query) -> tuple[bool, bool, bool, int, bool, bool]:
    """Smaller for records that say more about the query."""
    return (
        (m.device.vendor, m.device.arch) != (query.device.vendor, query.device.arch),
        not m.problem.same_shape(query.problem),
        m.device != query.device,
        m.problem.distance(query.problem),
        m.kernel != query.kernel,
        m.toolchain != query.toolchain,
    )
