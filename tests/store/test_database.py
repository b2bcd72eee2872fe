import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import event

from seqgen.errors import UsageError
from seqgen.store import database
from seqgen.store.bundled import bundled_folder
from seqgen.store.database import StoreError, default_location
from seqgen.store.exchange import write_records
from seqgen.store.store import TuningStore

from .conftest import FAST, H200, KERNEL, PROBLEM, TOOLCHAIN, measured, race


def test_the_place_comes_from_the_environment(monkeypatch):
    monkeypatch.delenv("SEQGEN_TUNING_DB", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("SEQGEN_CACHE", raising=False)
    monkeypatch.setenv("HOME", "/somewhere")
    assert default_location() == "/somewhere/.cache/seqgen/tuning.sqlite"
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    assert default_location() == "/cache/seqgen/tuning.sqlite"
    monkeypatch.setenv("SEQGEN_CACHE", "/own")
    assert default_location() == "/own/tuning.sqlite"
    monkeypatch.setenv("SEQGEN_TUNING_DB", "postgresql://me@host/db")
    assert default_location() == "postgresql://me@host/db"


def test_messages_never_show_a_password():
    url = database.database_url("postgresql://me:secret@host/db")
    assert database.display_name(url) == "postgresql://me:***@host/db"


def test_a_url_that_is_none_is_a_usage_error(empty):
    with pytest.raises(UsageError, match="is not a path or a database URL"):
        TuningStore.open("://here", bundled=empty)


def test_a_missing_driver_is_named(empty):
    with pytest.raises(StoreError, match="Cannot open the tuning database nosuch://"):
        TuningStore.open("nosuch://host/db", bundled=empty)


def test_the_database_and_its_folder_are_made(tmp_path, empty):
    place = tmp_path / "a" / "b" / "tuning.sqlite"
    with TuningStore.open(place, bundled=empty) as store:
        store.record(*race())
        assert store.persistent
    with sqlite3.connect(place) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


@pytest.mark.parametrize("content", [b"this is no database at all" * 40, b"SQLite format 3\0" * 64])
def test_a_damaged_file_is_refused_and_left_alone(tmp_path, empty, content):
    place = tmp_path / "tuning.sqlite"
    place.write_bytes(content)
    with pytest.raises(StoreError) as error:
        TuningStore.open(place, bundled=empty)
    assert f"The tuning database {place} is damaged or is no SQLite database" in str(error.value)
    assert f"mv {place} {place}.broken" in str(error.value)
    assert place.read_bytes() == content


def test_damage_in_the_middle_is_reported(tmp_path, empty):
    place = tmp_path / "tuning.sqlite"
    with TuningStore.open(place, bundled=empty) as store:
        store.record(*(measured(session=f"s{i}") for i in range(200)))
    content = bytearray(place.read_bytes())
    content[8192:] = b"\xff" * (len(content) - 8192)
    place.write_bytes(content)
    with pytest.raises(StoreError, match="is damaged"):
        TuningStore.open(place, bundled=empty).records()


def test_somebody_elses_database_is_refused(tmp_path, empty):
    place = tmp_path / "other.sqlite"
    with sqlite3.connect(place) as connection:
        connection.execute("CREATE TABLE bookmarks (url TEXT)")
    with pytest.raises(StoreError, match=r"is a database, but not one of seqgen's"):
        TuningStore.open(place, bundled=empty)


def test_a_newer_schema_is_refused(tmp_path, empty):
    place = tmp_path / "tuning.sqlite"
    TuningStore.open(place, bundled=empty).close()
    with sqlite3.connect(place) as connection:
        connection.execute("UPDATE meta SET value = '2' WHERE name = 'schema_version'")
    with pytest.raises(StoreError, match=r"has schema version 2; this seqgen knows version 1"):
        TuningStore.open(place, bundled=empty)


def test_where_nothing_can_be_written_shipped_records_still_answer(tmp_path, empty, capsys):
    (empty / "h200.jsonl").write_text("".join(write_records(race())))
    blocker = tmp_path / "file"
    blocker.write_text("")
    for _ in range(2):
        with TuningStore.open(blocker / "seqgen" / "t.sqlite", bundled=empty) as store:
            assert not store.persistent
            assert store.lookup(KERNEL, PROBLEM, H200, TOOLCHAIN).config == FAST
    warnings = capsys.readouterr().err
    assert warnings.count("Warning: ") == 1
    assert f"Cannot create the folder of the tuning database {blocker}" in warnings
    assert "nothing will be saved" in warnings


def test_a_read_only_database_is_copied_not_changed(tmp_path, empty, capsys):
    place = tmp_path / "tuning.sqlite"
    with TuningStore.open(place, bundled=empty) as store:
        store.record(*race())
    before = place.read_bytes()
    with TuningStore.open(f"sqlite:///file:{place}?mode=ro&uri=true", bundled=empty) as store:
        assert not store.persistent
        assert store.lookup(KERNEL, PROBLEM, H200, TOOLCHAIN).config == FAST
        store.record(measured(session="lost"))
    assert place.read_bytes() == before
    assert "cannot be written" in capsys.readouterr().err


def test_tuning_refuses_what_cannot_be_written(tmp_path, empty):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="name a writable file in SEQGEN_TUNING_DB"):
        TuningStore.open(tmp_path / "file" / "t.sqlite", bundled=empty, must_persist=True)


def test_a_full_disk_changes_nothing(tmp_path, empty):
    place = tmp_path / "tuning.sqlite"
    store = TuningStore.open(place, bundled=empty)
    store.record(*race())

    @event.listens_for(store._engine, "checkout")
    def _small(connection, record, proxy):
        connection.execute("PRAGMA max_page_count = 1")

    with pytest.raises(StoreError, match="The disk is full or failing"):
        store.record(*(measured(session=f"s{i}") for i in range(500)))
    store.close()
    with TuningStore.open(place, bundled=empty) as again:
        assert len(again.records()) == 4


def test_a_lock_that_stays_is_reported(tmp_path, empty, monkeypatch):
    place = tmp_path / "tuning.sqlite"
    monkeypatch.setattr(database, "BUSY_TIMEOUT_MS", 50)
    with TuningStore.open(place, bundled=empty) as store:
        other = sqlite3.connect(place, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreError, match="Another process has been writing"):
            store.record(*race())
        other.execute("ROLLBACK")
        other.close()
        store.record(*race())
        assert len(store.records()) == 4


def test_processes_that_open_and_write_at_once_lose_nothing(tmp_path, empty):
    code = """
import sys
from pathlib import Path
from seqgen.store.store import TuningStore
from tests.store.conftest import measured
place, shipped, who = sys.argv[1:]
with TuningStore.open(place, bundled=Path(shipped), must_persist=True) as store:
    for i in range(20):
        store.record(measured(session=f"p{who}i{i}"))
"""
    place = str(tmp_path / "tuning.sqlite")
    (empty / "h200.jsonl").write_text("".join(write_records(race())))
    command = [sys.executable, "-c", code, place, str(empty)]
    root = Path(__file__).parents[2]
    running = [
        subprocess.Popen([*command, str(i)], cwd=root, stderr=subprocess.PIPE) for i in range(4)
    ]
    assert [(p.communicate()[1], p.returncode) for p in running] == [(b"", 0)] * 4
    with TuningStore.open(place, bundled=empty) as store:
        assert len(store.records()) == 80 + 4


def test_the_shipped_records_can_be_loaded():
    assert (bundled_folder() / "README.md").is_file()
    with TuningStore.open("sqlite://") as store:
        assert store.persistent


def test_the_store_imports_neither_torch_nor_the_compiler():
    code = (
        "import sys, seqgen.store.commands\n"
        "bad = ('torch', 'triton', 'optuna', 'jinja2', 'seqgen.spec', 'seqgen.ir', 'seqgen.plan')\n"
        "print([m for m in bad if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
