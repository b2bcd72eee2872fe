import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqgen.store import exchange
from seqgen.store.exchange import ExchangeError, parse_record, read_records, write_records
from seqgen.store.keys import canonical_json, content_hash

from .conftest import DEFAULT, FAST, measured, race, verified

HEADER = '{"format":"seqgen-tuning","schema":1}\n'


def file_of(tmp_path, *lines, header=HEADER):
    path = tmp_path / "records.jsonl"
    path.write_bytes((header + "".join(lines)).encode("utf-8", "surrogateescape"))
    return path


def refusal(path):
    with pytest.raises(ExchangeError) as error:
        list(read_records(path))
    return str(error.value).replace(str(path), "FILE")


def with_id(payload):
    """A line that a careful forger would write: changed, with a matching id."""
    payload = {k: v for k, v in payload.items() if k != "id"}
    return json.dumps({"id": content_hash(payload), **payload}) + "\n"


def test_round_trip_keeps_records_and_bytes(tmp_path):
    lines = list(write_records(race()))
    back = list(read_records(file_of(tmp_path, *lines, header="")))
    assert {r.record_id for r in back} == {r.record_id for r in race()}
    assert sorted(back, key=lambda r: r.record_id) == sorted(race(), key=lambda r: r.record_id)
    assert list(write_records(reversed(back))) == lines


def test_duplicates_are_written_once():
    assert len(list(write_records([*race(), *race()]))) == 5


@given(st.floats(min_value=1e-3, max_value=1e9), st.integers(0, 2**40))
def test_numbers_survive(us, count):
    record = exchange.validated(measured(us=us, repetitions=count, median_us=us))
    assert parse_record(json.loads(list(write_records([record]))[1])) == record


def test_an_integer_time_gets_the_id_it_has_after_import():
    assert exchange.validated(measured(us=80)).record_id == measured(us=80.0).record_id


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"config": {"BK": "__import__('os')"}}, "config.BK must be a number, true, false or"),
        ({"config": {"BK; x": 1}}, "config has a name that is no identifier"),
        ({"config": {"BK": 1.5}}, "config.BK must be a whole number"),
        ({"config": {"BK": [1]}}, "config.BK must be a whole number"),
        ({"config": {"BK": None}}, "config.BK must be a whole number"),
        ({"config": {"BK": -1}}, "config.BK must be a whole number"),
        ({"config": [1]}, "config must be a JSON object"),
        ({"gpu": "/home/me"}, "gpu must be text of at most 80 plain characters"),
        ({"gpu": "x" * 81}, "gpu must be text of at most 80 plain characters"),
        ({"gpu": 'a"b'}, "gpu must be text"),
        ({"session": "a\nb"}, "session must be text"),
        ({"median_us": "1"}, "median_us must be a number"),
        ({"median_us": True}, "median_us must be a number"),
        ({"median_us": -1.0}, "median_us must be a number"),
        ({"median_us": 0}, "needs a median_us above 0"),
        ({"median_us": None}, "needs a median_us above 0"),
        ({"repetitions": 2**60}, "repetitions must be a whole number"),
        ({"repetitions": 5.0}, "repetitions must be a whole number"),
        ({"status": "great"}, "status must be one of ok, rejected, crashed, timeout"),
        ({"rung": ["final"]}, "rung must be one of search, final"),
        ({"extra": 1}, "measurement has an unknown field"),
        ({"statuss": "ok"}, "Did you mean 'status'?"),
        ({"type": "pickle"}, "type must be one of measurement, verification, not 'pickle'"),
        ({"kernel": {"op": "a"}}, "measurement.kernel lacks kernel, role"),
        ({"shape": {"B": True}}, "shape.B must be a whole number"),
        ({"shape": {f"x{i}": 1 for i in range(65)}}, "an object with more than 64 entries"),
    ],
)
def test_values_out_of_bounds_are_refused(tmp_path, change, message):
    line = with_id({**measured().payload, **change})
    said = refusal(file_of(tmp_path, *list(write_records(race()))[1:], line))
    assert said.startswith("FILE, line 6: ")
    assert message in said


def test_an_operator_name_must_be_an_identifier(tmp_path):
    payload = measured().payload
    payload["kernel"] = {**payload["kernel"], "op": "a b"}
    assert "kernel.op must be an identifier" in refusal(file_of(tmp_path, with_id(payload)))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"a":NaN}\n', "FILE, line 2: NaN is not a number in JSON."),
        ('{"a":-Infinity}\n', "FILE, line 2: -Infinity is not a number in JSON."),
        ('{"id":1,"id":2}\n', "FILE, line 2: key 'id' stands twice in one object."),
        ("[" * 5000 + "\n", "FILE, line 2: nested deeper than 4 levels."),
        ('{"a":{"b":{"c":{"d":{}}}}}\n', "FILE, line 2: nested deeper than 4 levels."),
        ('{"a":"' + "x" * 20000 + '"}\n', "FILE, line 2: longer than 16384 bytes."),
        ("x" * 20000, "FILE, line 2: longer than 16384 bytes."),
        ('{"a":\n', "FILE, line 2: not JSON: Expecting value at column 6."),
        ("[1]\n", "FILE, line 2: a record must be a JSON object."),
        ('\n\n{"a":1}\n', "FILE, line 4: type must be one of measurement, verification, not None."),
    ],
)
def test_hostile_lines_are_refused_with_their_number(tmp_path, line, message):
    assert refusal(file_of(tmp_path, line)) == message


def test_bytes_that_are_not_ascii_are_refused(tmp_path):
    path = tmp_path / "records.jsonl"
    path.write_bytes(HEADER.encode() + b'{"a":"\xff"}\n')
    assert refusal(path).startswith("FILE, line 2: 'ascii' codec can't decode byte 0xff")


def test_infinite_numbers_in_disguise_are_refused(tmp_path):
    line = with_id(measured(us=12345.0).payload).replace("12345.0", "1e999")
    assert "median_us must be a number" in refusal(file_of(tmp_path, line))


def test_a_changed_record_is_refused(tmp_path):
    line = list(write_records([measured(us=80.0)]))[1].replace("80.0", "8.0")
    assert refusal(file_of(tmp_path, line)) == (
        "FILE, line 2: id is not the hash of the record; it was changed or cut off."
    )


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("{}\n", "not a file of tuning records"),
        ('{"format":"seqgen-tuning","schema":2}\n', "schema 2; this seqgen reads schema 1"),
        ("SQLite format 3\n", "not JSON"),
    ],
)
def test_other_files_are_refused(tmp_path, header, message):
    said = refusal(file_of(tmp_path, header=header))
    assert said.startswith("FILE, line 1: ")
    assert message in said


def test_a_missing_file_and_a_huge_one_are_refused(tmp_path, monkeypatch):
    assert refusal(tmp_path / "none.jsonl").startswith("Cannot read")
    monkeypatch.setattr(exchange, "MAX_FILE_BYTES", 10)
    assert "at most 10 are read" in refusal(file_of(tmp_path))


def test_lines_of_one_operator_stand_together():
    lines = list(write_records([verified(FAST), *race(), measured(DEFAULT, 101.0, session="s9")]))
    kernels = [json.loads(line)["kernel"]["op"] for line in lines[1:]]
    assert kernels == sorted(kernels)
    assert all(canonical_json(json.loads(line)) + "\n" == line for line in lines)
