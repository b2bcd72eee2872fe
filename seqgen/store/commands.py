"""What ``seqgen db`` does; each function returns the text to print, or rows for ``--json``."""

from __future__ import annotations

import os
import tempfile
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from seqgen.errors import UsageError
from seqgen.store import database
from seqgen.store.exchange import write_records
from seqgen.store.keys import canonical_json
from seqgen.store.lookup import Accept, History, Query, accept_all, key_differences, lookup
from seqgen.store.models import BUNDLED, LOCAL
from seqgen.store.records import Measurement, Record
from seqgen.store.store import TuningStore

_TRUST = {LOCAL: "local", BUNDLED: "shipped"}


def path(location: str | None = None) -> str:
    """Where the database is, or will be."""
    return database.display_name(database.database_url(location or database.default_location()))


def show_rows(store: TuningStore, op: str | None = None) -> list[dict[str, Any]]:
    """One row per kernel, bucket, device, toolchain and policy that was measured.

    A row whose ``config`` is None has records, but none that may decide (see ``why_miss``).
    """
    rows = []
    measured = [r for r in store.records() if isinstance(r, Measurement)]
    kernels = {m.kernel.hash: m.kernel for m in measured if op in (None, m.kernel.op)}
    for kernel in kernels.values():
        history = store.history(kernel)
        queries = {
            (m.problem.hash, m.device.hash, m.toolchain.hash, m.policy.hash): m
            for m, _ in history.measurements
        }
        for m in queries.values():
            query = Query(kernel, m.problem, m.device, m.toolchain, m.policy)
            rows.append(_show_row(history, query, m.gpu))
    return sorted(rows, key=canonical_json)


def _show_row(history: History, query: Query, gpu: str) -> dict[str, Any]:
    row: dict[str, Any] = {
        "op": query.kernel.op,
        "kernel": query.kernel.kernel,
        "dtype": query.problem.dtype,
        "sizes": dict(query.problem.sizes),
        "load": query.problem.load,
        "length": query.problem.length,
        "gpu": gpu or query.device.arch,
        "triton": query.toolchain.triton,
        "config": None,
        "median_us": None,
        "default_us": None,
        "source": None,
        "record": None,
    }
    found = history.winner(query, accept_all)
    if found is None:
        return row
    winner, tier = found
    best = winner.candidate
    ids = [
        m.record_id
        for m, trust in history.measurements
        if trust >= tier
        and m.status == "ok"
        and dict(m.config) == dict(best.config)
        and (m.problem, m.device, m.toolchain, m.policy)
        == (query.problem, query.device, query.toolchain, query.policy)
    ]
    return row | {
        "config": dict(best.config),
        "median_us": best.median_us,
        "default_us": winner.default_us,
        "source": _TRUST[tier],
        "record": min(ids)[:12],
    }


def show(store: TuningStore, op: str | None = None) -> str:
    """The winners as a table."""
    rows = show_rows(store, op)
    if not rows:
        return f"No records{f' for operator {op}' if op else ''} in {store.name}."
    header = ["record", "op", "kernel", "dtype", "sizes", "load", "length", "gpu", "triton"]
    header += ["us", "default", "config"]
    table = [header]
    for row in rows:
        sizes = ",".join(f"{k}={v}" for k, v in sorted(row["sizes"].items()))
        config = row["config"]
        knobs = "none verified" if config is None else _knobs(config)
        where = [row["op"], row["kernel"], row["dtype"], sizes or "-"]
        bucket = [str(row["load"]), str(row["length"]), row["gpu"], row["triton"]]
        times = [_time(row["median_us"]), _time(row["default_us"])]
        table.append([row["record"] or "-", *where, *bucket, *times, knobs])
    return _table(table)


def stats(store: TuningStore) -> str:
    """Counts of what the store holds."""
    total = store.records()
    local = len(store.records(min_trust=LOCAL))
    shipped = len(store.records(min_trust=BUNDLED)) - local
    seeds = len(total) - local - shipped
    measured = [r for r in total if isinstance(r, Measurement)]
    statuses = Counter[str](m.status for m in measured)
    verdicts = Counter[str](r.outcome for r in total if not isinstance(r, Measurement))
    devices = sorted({m.gpu or m.device.arch for m in measured})
    lines = [
        f"Database      {store.name}{'' if store.persistent else ' (copy in memory)'}",
        f"Records       {len(total)}: {local} local, {shipped} shipped, {seeds} imported seeds",
        f"Measurements  {_counts(statuses)}",
        f"Verifications {_counts(verdicts)}",
        f"Operators     {len({r.kernel.op for r in total})}",
        f"Kernels       {len({r.kernel.hash for r in total})}",
        f"GPUs          {', '.join(devices) or 'none'}",
    ]
    return "\n".join(lines)


def export_file(
    store: TuningStore, target: Path, *, op: str | None = None, finals: bool = False
) -> str:
    """Write local and shipped records; seeds from others are not passed on as one's own.

    Args:
        store: where from.
        target: the file, replaced as a whole.
        op: only this operator.
        finals: only what decides winners (final times and their verifications), for sharing.
    """
    records = [r for r in store.records(min_trust=BUNDLED) if op in (None, r.kernel.op)]
    if finals:
        records = _deciding(records)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # Written beside the target and moved, so that a full disk leaves the old file whole.
        handle, scratch = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        try:
            with os.fdopen(handle, "w", encoding="ascii", newline="\n") as file:
                file.writelines(write_records(records))
            Path(scratch).chmod(0o644)
            Path(scratch).replace(target)
        finally:
            Path(scratch).unlink(missing_ok=True)
    except OSError as error:
        raise UsageError(f"Cannot write {target}: {error.strerror or error}.") from error
    return f"Wrote {len(records)} records to {target}."


def _deciding(records: Sequence[Record]) -> list[Record]:
    finals = [r for r in records if isinstance(r, Measurement) and r.rung == "final"]
    raced: dict[str, set[str]] = defaultdict(set)
    for m in finals:
        raced[m.kernel.hash].add(canonical_json(dict(m.config)))
    verdicts = [
        r
        for r in records
        if not isinstance(r, Measurement) and canonical_json(dict(r.config)) in raced[r.kernel.hash]
    ]
    return [*finals, *verdicts]


def import_file(store: TuningStore, source: Path) -> str:
    """Merge a file of records in as seeds."""
    if not store.persistent:
        raise database.StoreError(f"{store.name} cannot be written, so nothing was imported.")
    new, total = store.import_file(source)
    return (
        f"Read {total} records from {source}, {new} of them new. They are seeds: 'seqgen tune' "
        f"verifies and times them on this machine before they are used."
    )


def pin(store: TuningStore, record: str) -> str:
    """Pin the configuration of the measurement whose id begins with ``record``."""
    m = _measurement(store, record)
    history = store.history(m.kernel)
    outcomes = {
        v.outcome
        for v, trust in history.verifications
        if trust >= BUNDLED
        and v.config == m.config
        and (v.device, v.toolchain) == (m.device, m.toolchain)
        and v.problem.same_shape(m.problem)
    }
    if outcomes != {"ok"}:
        found = ", ".join(sorted(outcomes - {"ok"})) or "never verified here"
        raise UsageError(f"Record {record} cannot be pinned: its configuration is {found}.")
    store.pin(m)
    return f"Pinned {m.kernel.op} {m.kernel.kernel} to {_knobs(dict(m.config))}."


def unpin(store: TuningStore, record: str) -> str:
    """Remove the pin that was set with ``record``."""
    m = _measurement(store, record)
    removed = store.unpin(m)
    return f"{'Unpinned' if removed else 'There was no pin on'} {m.kernel.op} {m.kernel.kernel}."


def _measurement(store: TuningStore, record: str) -> Measurement:
    if len(record) < 6 or not set(record) <= set("0123456789abcdef"):
        raise UsageError(f"{record!r} is no record id; 'seqgen db show' lists them.")
    found = [m for m in store.measurement(record) if m.status == "ok"]
    if len(found) != 1:
        count = "No measurement" if not found else f"{len(found)} measurements"
        raise UsageError(f"{count} with a time found whose id begins with {record}.")
    return found[0]


def why_miss(store: TuningStore, query: Query, accept: Accept = accept_all) -> str:
    """Why a lookup did not find an exact answer: the nearest record and each differing field."""
    history = store.history(query.kernel)
    lines = ["Miss: the default is used."]
    for toolchain in history.toolchains(query.toolchain):
        choice = lookup(history, replace(query, toolchain=toolchain), accept)
        if choice is None:
            continue
        if toolchain != query.toolchain:
            lines = [f"Uses one of Triton {toolchain.triton}. {choice.reason}"]
        elif choice.origin in ("pinned", "tuned"):
            return f"Hit. {choice.reason}"
        else:
            lines = [f"Uses {choice.origin}. {choice.reason}"]
        break
    if not history.measurements:
        return "\n".join([*lines, *_other_versions(store, query)])
    parts = ("problem", "device", "toolchain", "policy")

    def differing(m: Measurement) -> list[str]:
        return [p for p in parts if getattr(m, p) != getattr(query, p)]

    nearest = min(
        (m for m, _ in history.measurements),
        key=lambda m: (len(differing(m)), m.problem.distance(query.problem), m.record_id),
    )
    for part in differing(nearest):
        for difference in key_differences(getattr(nearest, part), getattr(query, part)):
            lines.append(f"  {part}: {difference}")
    if not differing(nearest):
        lines.append(f"  {_unusable(history, query, accept)}")
    return "\n".join(lines)


def _other_versions(store: TuningStore, query: Query) -> list[str]:
    wanted = query.kernel
    kernels = [
        r.kernel
        for r in store.records()
        if (r.kernel.op, r.kernel.kernel) == (wanted.op, wanted.kernel)
    ]
    if not kernels:
        return [f"  No record of {wanted.op} {wanted.kernel}. Run 'seqgen tune'."]
    nearest = min(kernels, key=lambda k: (len(key_differences(k, wanted)), k.hash))
    return [f"  kernel: {d}" for d in key_differences(nearest, wanted)]


def _unusable(history: History, query: Query, accept: Accept) -> str:
    """Why records of exactly these keys decide nothing."""
    exact = [
        (m, trust)
        for m, trust in history.measurements
        if (m.problem, m.device, m.toolchain, m.policy)
        == (query.problem, query.device, query.toolchain, query.policy)
    ]
    if all(trust < BUNDLED for _, trust in exact):
        return "The records are imported seeds. Run 'seqgen tune' to verify them here."
    if not any(accept(query.problem, m.config) for m, _ in exact):
        return "The recorded configurations are outside the domain of the kernel's knobs."
    return "No recorded configuration was both timed and verified without a failure."


def _knobs(config: dict[str, Any]) -> str:
    return " ".join(f"{name}={value}" for name, value in sorted(config.items()))


def _time(microseconds: float | None) -> str:
    return "-" if microseconds is None else f"{microseconds:.1f}"


def _counts(counter: Counter[str]) -> str:
    return ", ".join(f"{n} {name}" for name, n in sorted(counter.items())) or "none"


def _table(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ("  ".join(c.ljust(w) for c, w in zip(r, widths, strict=True)) for r in rows)
    return "\n".join(line.rstrip() for line in lines)
