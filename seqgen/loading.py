"""``seqgen.load(spec)``: from a spec to a function in one line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from seqgen.build import compile_spec, fingerprint, read_spec
from seqgen.runtime.cache import cached_module, check_fresh, write_module
from seqgen.runtime.loader import load_module
from seqgen.spec.model import Spec
from seqgen.tuned import tuned_configs

if TYPE_CHECKING:
    from seqgen.gpu.table import Gpu


def load(spec: Spec | str | Path, gpu: str = "auto") -> Callable[..., Any]:
    """Build ``spec`` into the cache and return its function.

    Args:
        spec: path of a YAML file, or a spec from the builder.
        gpu: name of the GPU to configure for; ``"auto"`` takes the one that is there, or an H100
            where there is none (the kernels then run on the CPU only with TRITON_INTERPRET=1, the
            reference runs otherwise).

    Returns:
        The operator. The other names of the generated file (``<op>_step``, ``<op>_reference``,
        ``CONFIGS``) are in its module: ``load_operator`` returns that.
    """
    module = load_operator(spec, gpu)
    function: Callable[..., Any] = getattr(module, module.SPEC["operator"])
    return function


def load_operator(spec: Spec | str | Path, gpu: str = "auto") -> ModuleType:
    """Like ``load``, but returns the whole generated module."""
    target = target_gpu(gpu)
    compiled = compile_spec(read_spec(spec), target, tuned_configs(target))
    file = cached_module(compiled.recurrence.name, fingerprint(compiled))
    if check_fresh(file, compiled.module.spec_hash) is not None:
        write_module(file, compiled.module.source)
    return load_module(file)


def target_gpu(name: str) -> Gpu:
    """The GPU called ``name``; for ``auto`` the one that is there, else an H100."""
    from seqgen.gpu.table import find_gpu

    if name == "auto":
        import torch

        if not torch.cuda.is_available():
            return find_gpu("h100")
    return find_gpu(name)
