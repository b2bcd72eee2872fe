"""A process that compiles launches for its parent: ``python -m seqgen.gpu.worker``.

Pickled ``(Launch, Gpu)`` pairs come in on standard input, pickled ``KernelResources`` or error
texts go out on standard output, until the input ends. The compiler may abort the process.
"""

from __future__ import annotations

import os
import pickle
import sys

from seqgen.errors import SeqgenError
from seqgen.gpu.compile import compile_launch
from seqgen.gpu.resources import KernelResources


def main() -> None:
    """Serve until standard input ends."""
    # Their seconds are no kernel's compile time.
    import torch  # noqa: F401
    import triton.compiler  # noqa: F401

    # The compiler prints to standard output; answers get a descriptor of their own.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    jobs = sys.stdin.buffer
    while True:
        try:
            launch, gpu = pickle.load(jobs)
        except EOFError:
            return
        except (SeqgenError, AttributeError) as error:
            answer: KernelResources | str = f"the kernel cannot be imported: {error}"
        else:
            try:
                answer = compile_launch(launch, gpu)
            except SeqgenError as error:
                answer = str(error)
        pickle.dump(answer, answers)
        answers.flush()


if __name__ == "__main__":
    main()
