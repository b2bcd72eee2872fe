"""Tables of the tuning store. Rows are never handed out; the store returns plain values."""

from __future__ import annotations

from typing import Any

from sqlalchemy import JSON, ForeignKey, Index, String
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

SCHEMA_VERSION = 1

IMPORTED, BUNDLED, LOCAL = 0, 1, 2
"""Trust. An imported record is only a seed for the tuner; a local one outranks a bundled one."""


class Base(DeclarativeBase):
    """Base of all tables."""


class Meta(Base):
    """``schema_version``, and per shipped file the hash that was loaded."""

    __tablename__ = "meta"
    name: Mapped[str] = mapped_column(String(120), primary_key=True)
    value: Mapped[str] = mapped_column(String(200))


class _KeyRow:
    hash: Mapped[str] = mapped_column(String(64), primary_key=True)


class KernelRow(_KeyRow, Base):
    """``keys.KernelKey``."""

    __tablename__ = "kernel"
    op: Mapped[str] = mapped_column(index=True)
    kernel: Mapped[str]
    role: Mapped[str]
    spec_hash: Mapped[str]
    source_hash: Mapped[str]


class ProblemRow(_KeyRow, Base):
    """``keys.ProblemKey``."""

    __tablename__ = "problem"
    dtype: Mapped[str]
    sizes: Mapped[dict[str, int]] = mapped_column(JSON)
    load: Mapped[int]
    length: Mapped[int]


class DeviceRow(_KeyRow, Base):
    """``keys.DeviceKey``."""

    __tablename__ = "device"
    vendor: Mapped[str]
    arch: Mapped[str]
    sm_count: Mapped[int]
    shared_bytes: Mapped[int]
    l2_bytes: Mapped[int]
    memory_gbps: Mapped[int]
    mig: Mapped[str]


class ToolchainRow(_KeyRow, Base):
    """``keys.ToolchainKey``."""

    __tablename__ = "toolchain"
    triton: Mapped[str]
    ptxas: Mapped[str]
    codegen: Mapped[int]


class PolicyRow(_KeyRow, Base):
    """``keys.PolicyKey``."""

    __tablename__ = "policy"
    protocol: Mapped[int]
    cache: Mapped[str]
    launch: Mapped[str]


class _RecordRow:
    record_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    trust: Mapped[int]
    source: Mapped[str]
    """``local``, the name of the shipped file, or ``import``."""
    kernel_hash: Mapped[str] = mapped_column(ForeignKey("kernel.hash"))
    problem_hash: Mapped[str] = mapped_column(ForeignKey("problem.hash"))
    device_hash: Mapped[str] = mapped_column(ForeignKey("device.hash"))
    toolchain_hash: Mapped[str] = mapped_column(ForeignKey("toolchain.hash"))
    config: Mapped[dict[str, Any]] = mapped_column(JSON)
    session: Mapped[str]
    created: Mapped[str]


class MeasurementRow(_RecordRow, Base):
    """``records.Measurement``; times in microseconds."""

    __tablename__ = "measurement"
    policy_hash: Mapped[str] = mapped_column(ForeignKey("policy.hash"))
    shape: Mapped[dict[str, int]] = mapped_column(JSON)
    status: Mapped[str]
    rung: Mapped[str]
    role: Mapped[str]
    repetitions: Mapped[int]
    median_us: Mapped[float | None]
    p20_us: Mapped[float | None]
    p80_us: Mapped[float | None]
    mad_us: Mapped[float | None]
    noise: Mapped[float | None]
    registers: Mapped[int | None]
    spills: Mapped[int | None]
    shared_bytes: Mapped[int | None]
    gpu: Mapped[str]
    driver: Mapped[str]

    kernel: Mapped[KernelRow] = relationship(lazy="joined")
    problem: Mapped[ProblemRow] = relationship(lazy="joined")
    device: Mapped[DeviceRow] = relationship(lazy="joined")
    toolchain: Mapped[ToolchainRow] = relationship(lazy="joined")
    policy: Mapped[PolicyRow] = relationship(lazy="joined")

    __table_args__ = (Index("ix_measurement_lookup", "kernel_hash", "device_hash"),)


class VerificationRow(_RecordRow, Base):
    """``records.Verification``."""

    __tablename__ = "verification"
    outcome: Mapped[str]
    worst: Mapped[str]
    error: Mapped[float | None]
    limit: Mapped[float | None] = mapped_column("error_limit")

    kernel: Mapped[KernelRow] = relationship(lazy="joined")
    problem: Mapped[ProblemRow] = relationship(lazy="joined")
    device: Mapped[DeviceRow] = relationship(lazy="joined")
    toolchain: Mapped[ToolchainRow] = relationship(lazy="joined")

    __table_args__ = (Index("ix_verification_lookup", "kernel_hash", "device_hash"),)


class PinRow(Base):
    """A configuration that the user has fixed for a kernel, problem and device."""

    __tablename__ = "pin"
    kernel_hash: Mapped[str] = mapped_column(ForeignKey("kernel.hash"), primary_key=True)
    problem_hash: Mapped[str] = mapped_column(ForeignKey("problem.hash"), primary_key=True)
    device_hash: Mapped[str] = mapped_column(ForeignKey("device.hash"), primary_key=True)
    config: Mapped[dict[str, Any]] = mapped_column(JSON)
    record_id: Mapped[str] = mapped_column(String(64))
