"""``seqgen db why-miss``: what a build looks up for a spec, and what is stored instead."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seqgen.build import compile_spec
from seqgen.spec.model import Spec

if TYPE_CHECKING:
    from seqgen.gpu.table import Gpu
    from seqgen.store.keys import ProblemKey
    from seqgen.store.records import Config
    from seqgen.store.store import TuningStore


def why_miss(spec: Spec, gpu: Gpu, dtype: str, shape: Mapping[str, int], store: TuningStore) -> str:
    """A paragraph per kernel: hit, or the nearest record and each field that differs.

    Args:
        spec: the operator.
        gpu: the target.
        dtype: "bf16", "fp16" or "fp32".
        shape: sizes of B, T and axes; those not given are the defaults.
        store: where to look.
    """
    from seqgen.gpu.launches import capture_launches
    from seqgen.resource_report import run_on_meta
    from seqgen.runtime.cache import write_module
    from seqgen.runtime.loader import load_module
    from seqgen.store import commands
    from seqgen.store.keys import ProblemKey
    from seqgen.store.lookup import Query
    from seqgen.tune.keys import device_key, kernel_key, toolchain_key
    from seqgen.tune.tuner import policy_key

    compiled = compile_spec(spec, gpu)
    asked: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"{compiled.recurrence.name}.py"
        write_module(file, compiled.module.source)
        module: Any = load_module(file)
        choose = module._config

        def noting(kernel: str, key: Any) -> Any:
            asked.setdefault(kernel, key)
            return choose(kernel, key)

        module._config = noting
        try:
            capture_launches(lambda: run_on_meta(module, compiled.recurrence, dtype, shape))
        finally:
            module._config = choose
    paragraphs = []
    for space in compiled.schedule.spaces:
        if space.kernel not in asked:
            continue
        of_dtype, sizes, load, length = asked[space.kernel]

        def legal(_: ProblemKey, config: Config, contains: Any = space.contains) -> bool:
            return bool(contains(config))

        name, made = compiled.recurrence.name, compiled.module
        query = Query(
            kernel_key(name, space.kernel, space.role, made.spec_hash, made.source),
            ProblemKey(of_dtype, dict(sizes), load, length),
            device_key(gpu),
            toolchain_key(),
            policy_key(),
        )
        paragraphs.append(f"{name} {space.kernel}: {commands.why_miss(store, query, legal)}")
    return "\n".join(paragraphs)
