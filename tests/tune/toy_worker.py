"""The worker of the toy module: the real one, but for a CPU and without a compiler."""

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from seqgen.runtime.loader import import_file
from seqgen.tune import gate
from seqgen.tune.process import serve
from seqgen.tune.results import Compiled
from seqgen.tune.worker import Bench, Handler
from seqgen.tune.workload import Workload


def wall_clock(calls):
    samples = []
    for call in calls:
        start = time.perf_counter()
        call()
        samples.append(1e6 * (time.perf_counter() - start))
    return samples


def no_compiler(launching, configs):
    return [Compiled("", 32, 0, 128) for _ in configs]


class ToyHandler(Handler):
    def _open(self, module, workload, settled):
        print("noise on standard output must not reach the answers")
        gate.RAGGED_T, gate.PACKED, gate.EXTREME_T = 9, (0, 1, 1, 4), 5
        self._bench = Bench(
            import_file(Path(module)),
            Workload.from_json(workload),
            clock=wall_clock,
            compiler=no_compiler,
            device="cpu",
            settled=settled,
        )
        return {"gpu": "toy", "driver": "1"}


if __name__ == "__main__":
    serve(ToyHandler(), sticky=lambda: False)
