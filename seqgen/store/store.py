"""The tuning store: append-only records in a database, handed out as plain values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from sqlalchemy import Engine, func, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from seqgen.store import database, exchange, models
from seqgen.store.bundled import bundled_files, bundled_folder
from seqgen.store.keys import (
    DeviceKey,
    KernelKey,
    PolicyKey,
    ProblemKey,
    ToolchainKey,
    canonical_json,
)
from seqgen.store.lookup import Accept, Choice, History, Pin, Query, accept_all, lookup
from seqgen.store.models import BUNDLED, IMPORTED, LOCAL
from seqgen.store.records import Measurement, Record, Verification
from seqgen.store.rows import KEY_ROWS, RECORD_ROWS, key_from, record_from, row_values

_BATCH = 500  # SQLite allows 999 variables in a statement of an old build

R = TypeVar("R", Measurement, Verification)


class TuningStore:
    """Records of tuning, the shipped ones included. Use ``open``, and ``close`` or ``with``.

    Attributes:
        name: the path, or the URL without its password, for messages.
        persistent: False if the database could not be written and lives in memory.
    """

    def __init__(self, engine: Engine, name: str, persistent: bool) -> None:
        self._engine = engine
        self.name = name
        self.persistent = persistent

    @classmethod
    def open(
        cls,
        location: str | Path | None = None,
        *,
        bundled: Path | None = None,
        must_persist: bool = False,
    ) -> TuningStore:
        """Open the store and load shipped records that it does not have yet.

        Args:
            location: path of a SQLite file or database URL; None for ``default_location()``.
            bundled: folder of shipped records; None for the one that belongs to this seqgen.
            must_persist: fail rather than fall back to memory (tuning must not lose its results).

        Raises:
            StoreError: the database cannot be used; the message names it and says what to do.
        """
        url = database.database_url(str(location or database.default_location()))
        name = database.display_name(url)
        try:
            store = cls(database.open_engine(url), name, persistent=True)
        except database.ReadOnlyError as error:
            if must_persist:
                raise database.StoreError(
                    f"{error}\n  Hint: name a writable file in {database.ENVIRONMENT_VARIABLE}."
                ) from error
            database.warn_once(f"{error} Working on a copy in memory; nothing will be saved.")
            store = cls(database.memory_copy(url), name, persistent=False)
        store._load_bundled(bundled_folder() if bundled is None else bundled)
        return store

    def close(self) -> None:
        """Give the database's connections back."""
        self._engine.dispose()

    def __enter__(self) -> TuningStore:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def record(self, *records: Record) -> None:
        """File facts measured here, all or none.

        Raises:
            ValueError: a field is out of bounds; nothing is filed then.
        """
        self._add([exchange.validated(r) for r in records], LOCAL, "local")

    def import_file(self, path: Path) -> tuple[int, int]:
        """Merge a file of records in as seeds: (records that were new, records in the file).

        Raises:
            ExchangeError: at the first line that cannot be accepted; nothing is merged then.
        """
        records = list(exchange.read_records(path))
        return self._add(records, IMPORTED, "import"), len(records)

    def _load_bundled(self, folder: Path) -> None:
        """Load shipped files whose content is not loaded yet.

        Records that a new version of a file no longer has stay as seeds.
        """
        for path, digest in bundled_files(folder):
            name = f"bundled:{path.name}"
            with self._read() as session:
                loaded = session.get(models.Meta, name)
                if loaded is not None and loaded.value == digest:
                    continue
            records = list(exchange.read_records(path))
            with self._write() as session:
                for row in RECORD_ROWS.values():
                    old = (row.trust == BUNDLED, row.source == path.name)
                    session.execute(update(row).where(*old).values(trust=IMPORTED))
                self._insert(session, records, BUNDLED, path.name)
                session.merge(models.Meta(name=name, value=digest))

    def _add(self, records: Sequence[Record], trust: int, source: str) -> int:
        with self._write() as session:
            before = self._count(session)
            self._insert(session, records, trust, source)
            return self._count(session) - before

    def _insert(self, session: Session, records: Sequence[Record], trust: int, source: str) -> None:
        for name, (_, row) in KEY_ROWS.items():
            keys = {k.hash: k for r in records if (k := getattr(r, name, None)) is not None}
            self._insert_new(session, row, [{"hash": h, **asdict(k)} for h, k in keys.items()])
        for kind, row in RECORD_ROWS.items():
            same_kind = {r.record_id: r for r in records if isinstance(r, kind)}
            values = [row_values(r, trust, source) for r in same_kind.values()]
            self._insert_new(session, row, values)
            ids = list(same_kind)
            for start in range(0, len(ids), _BATCH):
                chunk = row.record_id.in_(ids[start : start + _BATCH])
                better = update(row).where(chunk, row.trust < trust)
                session.execute(better.values(trust=trust, source=source))

    def _insert_new(self, session: Session, row: type[Any], values: list[dict[str, Any]]) -> None:
        """Insert rows that are not there yet: their primary key is the hash of their content."""
        if not values:
            return
        dialect: Any = postgresql if self._engine.dialect.name == "postgresql" else sqlite
        session.execute(dialect.insert(row).on_conflict_do_nothing(), values)

    def _count(self, session: Session) -> int:
        counts = (select(func.count()).select_from(row) for row in RECORD_ROWS.values())
        return sum(session.scalar(count) or 0 for count in counts)

    def records(self, *, min_trust: int = IMPORTED) -> list[Record]:
        """All records of at least this trust."""
        with self._read() as session:
            found: list[Record] = []
            for kind in RECORD_ROWS:
                found += [r for r, trust in self._load(session, kind) if trust >= min_trust]
            return found

    def history(self, kernel: KernelKey) -> History:
        """Everything stored about one kernel, on all devices."""
        with self._read() as session:
            pins = session.execute(
                select(models.PinRow, models.ProblemRow, models.DeviceRow)
                .join(models.ProblemRow, models.PinRow.problem_hash == models.ProblemRow.hash)
                .join(models.DeviceRow, models.PinRow.device_hash == models.DeviceRow.hash)
                .where(models.PinRow.kernel_hash == kernel.hash)
            )
            return History(
                self._load(session, Measurement, kernel),
                self._load(session, Verification, kernel),
                [
                    Pin(key_from(ProblemKey, p), key_from(DeviceKey, d), dict(pin.config))
                    for pin, p, d in pins
                ],
            )

    def lookup(
        self,
        kernel: KernelKey,
        problem: ProblemKey,
        device: DeviceKey,
        toolchain: ToolchainKey,
        policy: PolicyKey | None = None,
        accept: Accept = accept_all,
    ) -> Choice | None:
        """The configuration to use: pinned, exact, neighbour bucket, sibling device, or None.

        ``accept`` is the domain that the plan declares; configurations outside are not seen.
        """
        query = Query(kernel, problem, device, toolchain, policy or PolicyKey())
        return lookup(self.history(kernel), query, accept)

    def choices(
        self,
        kernel: KernelKey,
        device: DeviceKey,
        toolchain: ToolchainKey,
        policy: PolicyKey | None = None,
        accept: Accept = accept_all,
    ) -> list[Choice]:
        """``lookup`` for every bucket that was measured on this device or a sibling of it.

        This is what a build writes into ``CONFIGS``, in a fixed order.
        """
        history = self.history(kernel)
        problems = {m.problem.hash: m.problem for m, _ in history.measurements}
        problems |= {pin.problem.hash: pin.problem for pin in history.pins}
        found = []
        for problem in problems.values():
            query = Query(kernel, problem, device, toolchain, policy or PolicyKey())
            choice = lookup(history, query, accept)
            # A neighbour is listed under its own bucket; the module finds the nearest by itself.
            if choice is not None and choice.problem == problem:
                found.append(choice)
        return sorted(found, key=lambda c: canonical_json(c.problem.clear()))

    def pin(self, measurement: Measurement) -> None:
        """Make lookups return the configuration of a measurement, whatever is faster."""
        values = {
            "kernel_hash": measurement.kernel.hash,
            "problem_hash": measurement.problem.hash,
            "device_hash": measurement.device.hash,
            "config": dict(measurement.config),
            "record_id": measurement.record_id,
        }
        with self._write() as session:
            session.merge(models.PinRow(**values))

    def unpin(self, measurement: Measurement) -> bool:
        """Remove the pin on the kernel, problem and device of a measurement, if there is one."""
        row = models.PinRow
        with self._write() as session:
            pinned = session.scalars(
                select(row).where(
                    row.kernel_hash == measurement.kernel.hash,
                    row.problem_hash == measurement.problem.hash,
                    row.device_hash == measurement.device.hash,
                )
            ).all()
            for pin in pinned:
                session.delete(pin)
        return bool(pinned)

    def measurement(self, prefix: str) -> list[Measurement]:
        """The measurements whose record id begins with ``prefix``."""
        row = models.MeasurementRow
        with self._read() as session:
            rows = session.scalars(select(row).where(row.record_id.startswith(prefix)))
            return [record_from(Measurement, r) for r in rows]

    def _load(
        self, session: Session, kind: type[R], kernel: KernelKey | None = None
    ) -> list[tuple[R, int]]:
        row = RECORD_ROWS[kind]
        statement = select(row).order_by(row.record_id)
        if kernel is not None:
            statement = statement.where(row.kernel_hash == kernel.hash)
        return [(record_from(kind, r), r.trust) for r in session.scalars(statement)]

    def _read(self) -> Any:
        return database.read_session(self._engine, self.name)

    def _write(self) -> Any:
        return database.write_session(self._engine, self.name)
