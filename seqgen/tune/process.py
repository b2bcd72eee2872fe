"""A worker process: JSON jobs over pipes, a deadline for each, a new process after a death.

A configuration can hang the GPU, poison the process (illegal access) or abort the compiler. All
of that happens in the worker; here it is one failed job.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from seqgen.errors import SeqgenError

Message = dict[str, Any]

OPEN_DEADLINE = 600.0
"""Seconds to start: importing torch, a first compilation of every kernel, the references."""


class JobLost(SeqgenError):
    """The worker did not answer. ``late`` if it ran past the deadline, else it died."""

    def __init__(self, message: str, late: bool) -> None:
        super().__init__(message)
        self.late = late


class Worker:
    """One process that answers jobs in order; started by the first job and after each loss."""

    def __init__(self, command: Sequence[str], opening: Message) -> None:
        """Nothing runs yet.

        Args:
            command: what to start; it must call ``serve``.
            opening: the job that every new process gets first.
        """
        self._command = list(command)
        self._opening = opening
        self._process: subprocess.Popen[str] | None = None
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 (lives as long as self)
        self.opened: Message = {}
        self.starts = 0

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def ask(self, job: Message, deadline: float) -> Message:
        """The answer to one job.

        Raises:
            JobLost: the worker died or was killed at the deadline (seconds).
            SeqgenError: a new worker could not be opened.
        """
        if self._process is None:
            self._start()
        return self._exchange(job, deadline)

    def close(self) -> None:
        """End the process and all that it started."""
        self._end()
        self._errors.close()

    def _start(self) -> None:
        environment = dict(os.environ)
        # A source checkout has to be found again, whatever the current folder.
        root = str(Path(__file__).resolve().parents[2])
        paths = [root, *filter(None, [environment.get("PYTHONPATH")])]
        environment["PYTHONPATH"] = os.pathsep.join(paths)
        self.starts += 1
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env=environment,
            start_new_session=True,
        )
        try:
            self.opened = self._exchange(self._opening, OPEN_DEADLINE)
        except JobLost as error:
            raise SeqgenError(f"The tuning worker cannot start: {error}") from error
        if "error" in self.opened:
            self._end()
            raise SeqgenError(f"The tuning worker cannot start: {self.opened['error']}")

    def _exchange(self, job: Message, deadline: float) -> Message:
        process = self._process
        assert process is not None and process.stdin is not None and process.stdout is not None
        printed = self._errors.seek(0, os.SEEK_END)
        late = threading.Event()

        def kill() -> None:
            late.set()
            _kill_group(process)

        timer = threading.Timer(deadline, kill)
        timer.start()
        try:
            process.stdin.write(json.dumps(job) + "\n")
            process.stdin.flush()
            answer = process.stdout.readline()
        except OSError:
            answer = ""
        except BaseException:
            # Ctrl-C in the middle of a job: the answer would be taken for that of the next.
            self._end()
            raise
        finally:
            timer.cancel()
        if answer.endswith("\n"):
            message: Message = json.loads(answer)
            if message.get("fatal"):
                self._end()
            return message
        self._end()
        if late.is_set():
            raise JobLost(f"no answer within {deadline:g} s", late=True)
        raise JobLost(f"the process died. {self._last_words(printed)}".strip(), late=False)

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            _kill_group(process)
            with contextlib.suppress(OSError):
                process.communicate()

    def _last_words(self, start: int) -> str:
        self._errors.seek(start)
        lines = [x.strip() for x in self._errors.read().decode(errors="replace").splitlines()]
        return next((line[:300] for line in reversed(lines) if line), "")


def _kill_group(process: subprocess.Popen[str]) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def serve(handle: Callable[[Message], Message], sticky: Callable[[], bool]) -> None:
    """The worker's side: answer jobs until standard input ends.

    Args:
        handle: answers one job; what it raises becomes ``{"error": ...}``.
        sticky: asked after an error: whether this process is beyond use. It ends then, and
            the answer has ``"fatal": true``.
    """
    # Compilers and libraries print to standard output; answers get a descriptor of their own.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    _die_with_parent()
    for line in sys.stdin:
        try:
            answer = handle(json.loads(line))
        except Exception as error:
            # Whatever a generated kernel or a driver raises costs this job and no other.
            text = str(error).strip().splitlines()
            reason = f"{type(error).__name__}: {text[0][:300] if text else ''}"
            answer = {"error": reason, "fatal": sticky()}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
        if answer.get("fatal"):
            # Not sys.exit: destructors of a broken CUDA context may hang.
            os._exit(1)


def _die_with_parent() -> None:
    """Have Linux kill this process when the tuner is killed: it may hold a GPU."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(1, signal.SIGKILL)
