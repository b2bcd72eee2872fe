"""Between records and the rows they are kept in."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, TypeVar

from seqgen.store import models
from seqgen.store.keys import DeviceKey, KernelKey, PolicyKey, ProblemKey, ToolchainKey
from seqgen.store.records import Measurement, Record, Verification

KEY_ROWS: dict[str, tuple[type[Any], type[Any]]] = {
    "kernel": (KernelKey, models.KernelRow),
    "problem": (ProblemKey, models.ProblemRow),
    "device": (DeviceKey, models.DeviceRow),
    "toolchain": (ToolchainKey, models.ToolchainRow),
    "policy": (PolicyKey, models.PolicyRow),
}
RECORD_ROWS: dict[type[Any], type[Any]] = {
    Measurement: models.MeasurementRow,
    Verification: models.VerificationRow,
}

R = TypeVar("R", Measurement, Verification)


def row_values(record: Record, trust: int, source: str) -> dict[str, Any]:
    """The columns of a record; its keys are referred to by hash."""
    values: dict[str, Any] = {"record_id": record.record_id, "trust": trust, "source": source}
    for f in fields(record):
        value = getattr(record, f.name)
        if f.name in KEY_ROWS:
            values[f"{f.name}_hash"] = value.hash
        else:
            values[f.name] = value
    return values


def key_from(cls: type[Any], row: Any) -> Any:
    """The key that a row of its table holds."""
    return cls(**{f.name: getattr(row, f.name) for f in fields(cls)})


def record_from(cls: type[R], row: Any) -> R:
    """The record that a row holds, with its keys."""
    values = {f.name: getattr(row, f.name) for f in fields(cls)}
    for name, (key, _) in KEY_ROWS.items():
        if name in values:
            values[name] = key_from(key, values[name])
    return cls(**values)
