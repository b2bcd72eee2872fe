"""Records as text: one canonical JSON object per line, each named by the hash of its content.

A file may come from a stranger. Reading one therefore accepts only known fields with typed
values inside limits, and no text that could be a path, source code or markup. Every refusal names
the file and the line. Merging two files is the union of their lines.
"""

from __future__ import annotations

import json
import re
import types
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO, Literal, NoReturn, Union, get_args, get_origin, get_type_hints

from seqgen.errors import SeqgenError, did_you_mean
from seqgen.store.keys import canonical_json
from seqgen.store.records import Measurement, Record, Verification

FORMAT = "seqgen-tuning"
SCHEMA = 1
MAX_FILE_BYTES = 256 * 2**20
MAX_LINE_BYTES = 16 * 2**10
MAX_DEPTH = 4
MAX_ITEMS = 64
MAX_INTEGER = 2**53

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
_TEXT = re.compile(r"[A-Za-z0-9 ._+:()-]{0,80}")
_KINDS: dict[str, type[Measurement] | type[Verification]] = {
    "measurement": Measurement,
    "verification": Verification,
}


class ExchangeError(SeqgenError):
    """A file of records that cannot be accepted."""


def write_records(records: Iterable[Record]) -> Iterator[str]:
    """The lines of a file, header first, in an order that does not depend on the input's."""
    yield canonical_json({"format": FORMAT, "schema": SCHEMA}) + "\n"
    unique = {record.record_id: record for record in records}
    for record in sorted(unique.values(), key=_reading_order):
        yield canonical_json({"id": record.record_id, **record.payload}) + "\n"


def read_records(path: Path) -> Iterator[Record]:
    """The records of a file; blank lines are skipped.

    Raises:
        ExchangeError: at the first line that breaks a rule, with its number.
    """
    try:
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise ExchangeError(f"{path} has {size} bytes; at most {MAX_FILE_BYTES} are read.")
        with path.open("rb") as file:
            yield from _read_lines(file, str(path))
    except OSError as error:
        raise ExchangeError(f"Cannot read {path}: {error.strerror or error}.") from error


def _read_lines(file: BinaryIO, name: str) -> Iterator[Record]:
    header_seen = False
    number = 0
    while line := file.readline(MAX_LINE_BYTES + 1):
        number += 1
        if len(line) > MAX_LINE_BYTES:
            raise ExchangeError(f"{name}, line {number}: longer than {MAX_LINE_BYTES} bytes.")
        if not line.strip():
            continue
        try:
            value = _load(line)
            if header_seen:
                yield parse_record(value)
            else:
                _check_header(value)
                header_seen = True
        except ValueError as error:
            raise ExchangeError(f"{name}, line {number}: {error}") from error


def _load(line: bytes) -> object:
    """JSON with everything refused that two parsers might read differently."""
    text = line.decode(
        "ascii"
    ).strip()  # canonical JSON is ASCII; UnicodeDecodeError is a ValueError
    # Brackets inside strings count too: no accepted string holds one.
    depth = deepest = 0
    for character in text:
        depth += (character in "{[") - (character in "}]")
        deepest = max(deepest, depth)
    if deepest > MAX_DEPTH:
        raise ValueError(f"nested deeper than {MAX_DEPTH} levels.")
    try:
        return json.loads(text, object_pairs_hook=_object, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error.msg} at column {error.colno}.") from error


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    if len(pairs) > MAX_ITEMS:
        raise ValueError(f"an object with more than {MAX_ITEMS} entries.")
    result: dict[str, object] = {}
    for key, value in pairs:
        if key in result:
            raise ValueError(f"key {key!r} stands twice in one object.")
        result[key] = value
    return result


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number in JSON.")


def _check_header(value: object) -> None:
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        raise ValueError(f'not a file of tuning records; it must begin with {{"format":"{FORMAT}"')
    schema = value.get("schema")
    if schema != SCHEMA:
        raise ValueError(f"schema {schema!r}; this seqgen reads schema {SCHEMA}.")


def parse_record(value: object) -> Record:
    """A record from its JSON object.

    Raises:
        ValueError: a field is missing, unknown or out of bounds, or the id does not fit.
    """
    if not isinstance(value, dict):
        raise ValueError("a record must be a JSON object.")
    value = dict(value)
    claimed = value.pop("id", None)
    kind = value.pop("type", None)
    if not isinstance(kind, str) or kind not in _KINDS:
        raise ValueError(f"type must be one of {', '.join(_KINDS)}, not {kind!r}.")
    record: Record = _parse(_KINDS[kind], value, kind)
    if record.record_id != claimed:
        raise ValueError("id is not the hash of the record; it was changed or cut off.")
    return record


def validated(record: Record) -> Record:
    """``record`` after the checks of this module, with numbers in their canonical type.

    Raises:
        ValueError: it could not be exported and read again.
    """
    payload = {k: v for k, v in record.payload.items() if k != "type"}
    checked: Record = _parse(type(record), payload, record.kind)
    return checked


@cache
def _hints(cls: type) -> dict[str, Any]:
    return get_type_hints(cls)


def _parse(expected: Any, value: Any, where: str) -> Any:
    """``value`` as the type ``expected``; ``where`` names it in messages."""
    origin = get_origin(expected)
    if is_dataclass(expected) and isinstance(expected, type):
        return _parse_fields(expected, value, where)
    if origin is Mapping:
        return _parse_mapping(get_args(expected)[1], value, where)
    if origin is Literal:
        if value not in get_args(expected) or not isinstance(value, str):
            raise ValueError(f"{where} must be one of {', '.join(get_args(expected))}.")
        return value
    if origin in (Union, types.UnionType):
        return _parse_union(get_args(expected), value, where)
    if expected is str:
        if not isinstance(value, str) or not _TEXT.fullmatch(value):
            raise ValueError(f"{where} must be text of at most 80 plain characters.")
        return value
    if expected is int:
        if type(value) is not int or not 0 <= value <= MAX_INTEGER:
            raise ValueError(f"{where} must be a whole number from 0 to 2**53.")
        return value
    if expected is float:
        if type(value) not in (int, float) or not 0 <= value <= MAX_INTEGER:
            raise ValueError(f"{where} must be a number from 0 to 2**53.")
        return float(value)
    raise AssertionError(f"no rule for {expected}")


def _parse_fields(cls: type, value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise ValueError(f"{where} must be a JSON object.")
    hints = _hints(cls)
    declared = {f.name: f for f in fields(cls)}
    for name in value:
        if name not in declared:
            hint = did_you_mean(name, declared) if _NAME.fullmatch(name) else ""
            raise ValueError(f"{where} has an unknown field. {hint}".strip())
    missing = [n for n, f in declared.items() if f.default is MISSING and n not in value]
    if missing:
        raise ValueError(f"{where} lacks {', '.join(missing)}.")
    parsed = {n: _parse(hints[n], v, f"{where}.{n}") for n, v in value.items()}
    for name in ("op", "kernel"):
        if isinstance(parsed.get(name), str) and not _NAME.fullmatch(parsed[name]):
            raise ValueError(f"{where}.{name} must be an identifier.")
    return cls(**parsed)


def _parse_mapping(item: Any, value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{where} must be a JSON object.")
    for name in value:
        if not _NAME.fullmatch(name):
            raise ValueError(f"{where} has a name that is no identifier.")
    return {name: _parse(item, v, f"{where}.{name}") for name, v in value.items()}


def _parse_union(options: tuple[Any, ...], value: Any, where: str) -> Any:
    """``X | None``, or the value of a knob: int, bool, or a name."""
    if type(None) in options:
        [inner] = [option for option in options if option is not type(None)]
        return None if value is None else _parse(inner, value, where)
    if isinstance(value, bool):
        return value
    if isinstance(value, str):
        if not _NAME.fullmatch(value):
            raise ValueError(f"{where} must be a number, true, false or a name.")
        return value
    return _parse(int, value, where)


def _reading_order(record: Record) -> tuple[str, ...]:
    """By operator and kernel first, so that a file can be reviewed."""
    problem = canonical_json(record.problem.clear())
    config = canonical_json(dict(record.config))
    kernel = record.kernel
    return kernel.op, kernel.kernel, problem, record.created, record.kind, config, record.record_id
