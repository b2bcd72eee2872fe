"""Errors as part of the interface: what is wrong, where, and what to do.

Every failure a user can cause is a ``SeqgenError``. The command line prints ``str(error)`` and
exits with ``error.exit_status``; it never shows a traceback for one (``--debug`` does).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass


def sentence(text: str) -> str:
    """``text`` with a capital and a full stop."""
    return f"{text[0].upper()}{text[1:]}."


@dataclass(frozen=True)
class Span:
    """A place in a file the user wrote. Lines and columns count from 1; ``length`` in columns."""

    file: str
    line: int
    column: int
    length: int
    source: str
    """The text of the whole line, without its newline."""

    @property
    def text(self) -> str:
        """What stands in this place."""
        return self.source[self.column - 1 : self.column - 1 + self.length]

    def inside(self, offset: int, length: int) -> Span:
        """The part of this span that starts ``offset`` columns after its start."""
        return Span(self.file, self.line, self.column + offset, max(length, 1), self.source)

    def window(self, width: int = 160) -> tuple[str, int, int]:
        """Line, column and length as a message shows them: of a very long line, the piece here."""
        length = min(self.length, width // 2)
        if len(self.source) <= width:
            return self.source, self.column, length
        start = max(self.column - 1 - width // 4, 0)
        piece = self.source[start : start + width]
        return "... " * (start > 0) + piece, self.column - start + 4 * (start > 0), length


class SeqgenError(Exception):
    """Base of every error that seqgen reports to its user."""

    exit_status = 1


class UsageError(SeqgenError):
    """Arguments that cannot be right (unknown GPU, missing file)."""

    exit_status = 2


class SpecError(SeqgenError):
    """A mistake in a spec, with the place it was made.

    Args:
        message: one sentence with a capital and a full stop, in the user's words.
        span: the smallest piece of the user's text that is wrong, or None if there is none.
        label: what is written behind the caret.
        notes: facts that help to understand.
        hint: the action that mends it.
    """

    exit_status = 2

    def __init__(
        self,
        message: str,
        span: Span | None = None,
        *,
        label: str = "",
        notes: Iterable[str] = (),
        hint: str = "",
    ) -> None:
        super().__init__(message)
        self.message = message
        self.span = span
        self.label = label
        self.notes = tuple(notes)
        self.hint = hint

    def __str__(self) -> str:
        lines = [self.message]
        if self.span is not None:
            number = str(self.span.line)
            gutter = " " * len(number)
            source, column, length = self.span.window()
            caret = " " * (column - 1) + "^" * length
            lines.append(f'  File "{self.span.file}", line {number}')
            lines.append(f"    {number} | {source}")
            lines.append(f"    {gutter} | {caret} {self.label}".rstrip())
        lines += [f"  Note: {note}" for note in self.notes]
        if self.hint:
            lines.append(f"  Hint: {self.hint}")
        return "\n".join(lines)


def did_you_mean(word: str, candidates: Iterable[str]) -> str:
    """``"Did you mean 'x'?"`` for the nearest candidate, or an empty string."""
    names = list(candidates)
    nearest = difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    if not nearest:
        folded = {name.lower(): name for name in names}
        nearest = [folded[word.lower()]] if word.lower() in folded else []
    return f"Did you mean '{nearest[0]}'?" if nearest else ""
