"""A YAML file as text with places: every key and value of it knows its line and column.

PyYAML composes the nodes; nothing is constructed from them, so a scalar is the text the user
wrote (``y``, ``on`` and ``1e-6`` are no surprises) and no YAML feature can run code.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path

import yaml

from seqgen.errors import Span, SpecError, UsageError, did_you_mean

MAX_BYTES = 256 * 1024

_BREAKS = "\r\n|[\n\r\x85\u2028\u2029]"  # the line breaks of YAML


@dataclass(frozen=True)
class Entry:
    """One ``key: value`` of a map."""

    key: str
    key_span: Span
    value: yaml.Node


def read_text(path: Path) -> str:
    """The text of the spec at ``path``.

    Raises:
        UsageError: there is no such file, or it is no file.
        SpecError: it is too large, or not text.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except IsADirectoryError:
        raise UsageError(f"{path} is a folder, not a spec.\n{_specs_in(path)}".rstrip()) from None
    except (FileNotFoundError, NotADirectoryError):
        folder = path.parent
        names = [entry.name for entry in folder.iterdir()] if folder.is_dir() else []
        hint = did_you_mean(path.name, names)
        message = f"There is no file {path}."
        raise UsageError(f"{message}\n  Hint: {hint}" if hint else message) from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise UsageError(f"Cannot read {path}: {reason}.") from None
    if len(data) > MAX_BYTES:
        raise SpecError(f"{path} is larger than {MAX_BYTES // 1024} KiB; a spec is a short text.")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise SpecError(f"{path} is not a text file (byte {error.start} is not UTF-8).") from None


def _specs_in(folder: Path) -> str:
    names = sorted(path.name for path in folder.glob("*.yaml"))[:5]
    return f"  Hint: Name a file in it, such as {folder / names[0]}." if names else ""


class _PlainLoader(yaml.SafeLoader):
    """Composes nodes and refuses what a spec has no use for: anchors, aliases, tags."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event: yaml.Event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise _Refused("YAML anchors and aliases ('&', '*') are not supported.", event)
        if getattr(event, "tag", None) is not None:
            raise _Refused("YAML tags ('!') are not supported.", event)
        return super().compose_node(parent, index)


class _Refused(Exception):
    def __init__(self, message: str, event: yaml.Event) -> None:
        super().__init__(message)
        self.message = message
        self.event = event


class Source:
    """One spec file: its lines, its nodes, and the span of each node."""

    def __init__(self, text: str, file: str) -> None:
        self.file = file
        # A tab counts as one column so that carets stand right.
        self.lines = re.split(_BREAKS, text.replace("\t", " "))
        self.text = text

    def compose(self) -> yaml.Node:
        """The root node.

        Raises:
            SpecError: this is not YAML, or uses a part of YAML that specs do not have.
        """
        try:
            root = yaml.compose(self.text, _PlainLoader)
        except _Refused as refused:
            mark = refused.event.start_mark
            span = self._at(mark.line, mark.column) if mark else None
            hint = "Write the value in full." if "anchors" in refused.message else ""
            hint = hint or "Quote a value that begins with '!'."
            raise SpecError(refused.message, span, hint=hint) from None
        except yaml.reader.ReaderError as error:
            line = len(re.split(_BREAKS, self.text[: error.position]))
            code = ord(self.text[error.position])
            raise SpecError(
                f"{self.file} is not a text file (line {line} has the character U+{code:04X})."
            ) from None
        except yaml.MarkedYAMLError as error:
            raise self._syntax_error(error) from None
        except RecursionError:
            raise SpecError(f"{self.file} is nested too deeply; a spec has few levels.") from None
        if root is None:
            raise SpecError(f"{self.file} is empty.", hint="A spec begins with 'operator: name'.")
        return root

    def _syntax_error(self, error: yaml.MarkedYAMLError) -> SpecError:
        mark = error.problem_mark or error.context_mark
        span = self._at(mark.line, mark.column) if mark is not None else None
        problem, notes, hint = error.problem or "", [], ""
        if problem.startswith("but found another document"):
            return SpecError(
                "One file holds one spec.", span, hint="Put the next document in its own file."
            )
        token = re.match(r"found character '(.*)' that cannot start any token", problem)
        if token is not None:
            problem = f"{'a tab' if token[1] == chr(92) + 't' else token[1]} cannot stand here"
            hint = "Indent with spaces; quote a value that begins with a special character."
        elif "mapping values are not allowed" in problem:
            problem = "a ':' inside a value"
            hint = "Quote a value that holds ': '."
        elif (error.context or "").startswith("while parsing a flow"):
            problem = problem.partition(", but got")[0]
            if error.context_mark is not None:
                notes = [f"The bracket was opened in line {error.context_mark.line + 1}."]
        return SpecError("This is not valid YAML.", span, label=problem, notes=notes, hint=hint)

    def _at(self, line: int, column: int) -> Span:
        """One character; YAML's marks count from 0."""
        line = min(line, len(self.lines) - 1)
        source = self.lines[line]
        return Span(self.file, line + 1, min(column, len(source)) + 1, 1, source)

    # Spans ----------------------------------------------------------------------------------

    def span(self, node: yaml.Node) -> Span:
        """Where ``node`` stands; of several lines, the first."""
        first = self._at(node.start_mark.line, node.start_mark.column)
        if node.end_mark.line == node.start_mark.line:
            return first.inside(0, node.end_mark.column - node.start_mark.column)
        return first.inside(0, len(first.source.rstrip()) - first.column + 1)

    def text_lines(self, node: yaml.ScalarNode) -> tuple[Span, ...]:
        """The text of a scalar, as the spans of its lines without surrounding blanks.

        Raises:
            SpecError: the scalar has escapes, so its text does not stand in the file.
        """
        start, end = node.start_mark, node.end_mark
        first, left, right = start.line, start.column, end.column
        if node.style in ("|", ">"):
            first, left = start.line + 1, 0
        elif node.style is not None:
            left, right = left + 1, right - 1
        spans = []
        for number in range(first, min(end.line + 1, len(self.lines))):
            line = self.lines[number]
            begin = left if number == first else 0
            stop = right if number == end.line else len(line)
            piece = line[begin:stop]
            if piece.strip():
                begin += len(piece) - len(piece.lstrip())
                spans.append(Span(self.file, number + 1, begin + 1, len(piece.strip()), line))
        written = "".join(s.text for s in spans)
        if "".join(written.split()) != "".join(node.value.split()):
            raise SpecError("Write this value without escapes.", self.span(node))
        return tuple(spans)

    # Values ---------------------------------------------------------------------------------

    def entries(self, node: yaml.Node, what: str) -> list[Entry]:
        """Keys and values of a map, in order; no key twice."""
        if not isinstance(node, yaml.MappingNode):
            raise self.wrong_kind(node, what, "'key: value' pairs")
        result: list[Entry] = []
        seen: dict[str, Span] = {}
        for key, value in node.value:
            span = self.span(key)
            if not isinstance(key, yaml.ScalarNode):
                raise SpecError("A key is one word.", span)
            if key.value in seen:
                raise SpecError(
                    f"The key '{key.value}' is given twice.",
                    span,
                    label=f"first in line {seen[key.value].line}",
                )
            seen[key.value] = span
            result.append(Entry(key.value, span, value))
        if not result:
            raise SpecError(f"{what} is empty.", self.span(node))
        return result

    def items(self, node: yaml.Node, what: str) -> list[yaml.Node]:
        """Elements of a list."""
        if not isinstance(node, yaml.SequenceNode):
            raise self.wrong_kind(node, what, "a list")
        return list(node.value)

    def word(self, node: yaml.Node, what: str) -> str:
        """A scalar as text, not empty."""
        if not isinstance(node, yaml.ScalarNode):
            raise self.wrong_kind(node, what, "a single value")
        if not node.value.strip():
            raise SpecError(f"{what} is empty.", self.span(node), label="a value is missing")
        return str(node.value)

    def number(self, node: yaml.Node, what: str) -> float:
        """A scalar as a number; ``inf``, ``-inf``, ``.inf`` and NaN are read, too."""
        text = self.word(node, what)
        assert isinstance(node, yaml.ScalarNode)
        plain = re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", text)
        special = re.fullmatch(r"([+-]?)\.?(inf|nan)", text, re.IGNORECASE)
        if node.style is None and plain and math.isfinite(float(text)):
            return float(text)
        if node.style is None and special:
            return float(special[1] + special[2])
        raise SpecError(f"{what} is a number, '{text[:40]}' is none.", self.span(node))

    def whole(self, node: yaml.Node, what: str) -> int:
        """A scalar as a whole number."""
        text = self.word(node, what)
        if not re.fullmatch(r"\d{1,9}", text):
            raise SpecError(f"{what} is a whole number, '{text[:40]}' is none.", self.span(node))
        return int(text)

    def truth(self, node: yaml.Node, what: str) -> bool:
        """``true`` or ``false``."""
        text = self.word(node, what)
        if text not in ("true", "false"):
            raise SpecError(f"{what} is true or false, not '{text[:40]}'.", self.span(node))
        return text == "true"

    def wrong_kind(self, node: yaml.Node, what: str, wanted: str) -> SpecError:
        """An error: ``what`` is not of the ``wanted`` kind."""
        if isinstance(node, yaml.ScalarNode):
            found = f"'{node.value[:40]}'" if node.value else "empty"
        else:
            found = "a map" if isinstance(node, yaml.MappingNode) else "a list"
        return SpecError(f"{what} takes {wanted}; this is {found}.", self.span(node))
