from __future__ import annotations

import errno
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from seqgen.errors import SeqgenError
from seqgen.runtime.cache import cache_folder, cached_module, check_fresh, write_module
from seqgen.runtime.header import read_header
from tests.runtime.modules import sealed

SOURCE = sealed("SPEC = 1\n")


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"SEQGEN_CACHE": "/a/own", "XDG_CACHE_HOME": "/b"}, "/a/own"),
        ({"XDG_CACHE_HOME": "/b"}, "/b/seqgen"),
        ({"XDG_CACHE_HOME": "relative"}, "/home/me/.cache/seqgen"),
        ({"SEQGEN_CACHE": ""}, "/home/me/.cache/seqgen"),
        ({"SEQGEN_CACHE": "~/own"}, "/home/me/own"),
    ],
)
def test_where_the_cache_lies(monkeypatch, variables, expected):
    for name in ("SEQGEN_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/home/me")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert cache_folder() == Path(expected)
    assert cached_module("gla", "f" * 64) == Path(expected) / "ops" / ("f" * 24) / "gla.py"


def test_a_module_is_written_whole_and_nothing_is_left_beside_it(tmp_path):
    file = tmp_path / "new" / "folder" / "gla.py"
    write_module(file, SOURCE)
    assert file.read_text() == SOURCE
    assert list(file.parent.iterdir()) == [file]
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(file.stat().st_mode) == 0o666 & ~umask


def test_builders_at_once_all_succeed_and_no_reader_sees_half_a_file(tmp_path):
    file = tmp_path / "gla.py"
    sources = [sealed(f"DATA = {'x' * 100_000!r}  # {number}\n") for number in range(8)]
    write_module(file, sources[0])

    def read_often(_):
        for _ in range(50):
            read_header(file.read_text(), file)

    with ThreadPoolExecutor(12) as threads:
        writers = [threads.submit(write_module, file, source) for source in sources]
        readers = [threads.submit(read_often, reader) for reader in range(4)]
        for job in writers + readers:
            job.result()
    assert file.read_text() in sources
    assert list(tmp_path.iterdir()) == [file]


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "taken").write_text("")
    file = tmp_path / "taken" / "gla.py"
    with pytest.raises(SeqgenError) as caught:
        write_module(file, SOURCE)
    assert str(caught.value).startswith(f"{file} cannot be written: ")


def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
    file = tmp_path / "gla.py"
    write_module(file, SOURCE)

    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(SeqgenError) as caught:
        write_module(file, SOURCE + "MORE = 1\n")
    assert str(caught.value) == f"{file} cannot be written: No space left on device."
    assert file.read_text() == SOURCE
    assert list(tmp_path.iterdir()) == [file]


def test_when_a_file_has_to_be_built_again(tmp_path):
    file = tmp_path / "gla.py"
    assert check_fresh(file, "abc") == "it is not there"
    write_module(file, SOURCE)
    assert check_fresh(file, "abc") is None
    assert check_fresh(file, "def") == "it was built from another spec"
    write_module(file, sealed("SPEC = 1\n", version="0.0.9"))
    assert check_fresh(file, "abc") == "it was built by seqgen 0.0.9"
    file.write_text(file.read_text() + "# edited\n")
    assert check_fresh(file, "abc") == "it is not as seqgen wrote it"
    file.write_bytes(b"\xff\xfe")
    assert check_fresh(file, "abc") == "it cannot be read"
