"""One line that says how far tuning is, on stderr."""

from __future__ import annotations

import sys
import time
from typing import TextIO

EVERY_TERMINAL, EVERY_FILE = 0.2, 10.0
"""Seconds between lines: a terminal's is rewritten in place, a file collects them."""


def clock_text(seconds: float) -> str:
    """``"1:05"`` or ``"2:03:04"``."""
    minutes, rest = divmod(max(round(seconds), 0), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def microseconds(value: float | None) -> str:
    """A time for the line, or a dash."""
    return "-" if value is None else f"{value:.1f} us"


class Progress:
    """Rewrites its line on a terminal; elsewhere prints one now and then."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._terminal = self._stream.isatty()
        self._last = 0.0
        self._width = 0

    def update(self, text: str) -> None:
        """Show ``text`` if it is time for it."""
        now = time.monotonic()
        every = EVERY_TERMINAL if self._terminal else EVERY_FILE
        if now - self._last >= every:
            self._last = now
            self._write(text)

    def done(self, text: str) -> None:
        """Show ``text`` for good."""
        self._write(text)
        if self._terminal:
            print(file=self._stream, flush=True)
        self._width = 0

    def _write(self, text: str) -> None:
        if self._terminal:
            print("\r" + text.ljust(self._width), end="", file=self._stream, flush=True)
            self._width = len(text)
        else:
            print(text, file=self._stream, flush=True)
