"""The keys of the tuning store for a generated file, a GPU and the installed compilers.

A build computes them from the text of the file alone, to look configurations up; the tuner
computes the same to record them.
"""

from __future__ import annotations

import ast
import functools

from seqgen.gpu.table import Gpu
from seqgen.store.keys import DeviceKey, KernelKey, Role, ToolchainKey, source_hash

CODEGEN = 1
"""Raised when generated code means something else although a kernel's text stays the same."""

OPERATOR = "operator"
"""The entry of CONFIGS with the knobs that all kernels of an operator share."""


def device_key(gpu: Gpu) -> DeviceKey:
    """The key of a GPU of the table."""
    return DeviceKey(**gpu.device_key())  # type: ignore[arg-type]


@functools.cache
def toolchain_key() -> ToolchainKey:
    """The key of the installed Triton and its assembler."""
    import triton
    from triton import knobs

    try:
        ptxas = str(knobs.nvidia.ptxas.version)
    except (AttributeError, RuntimeError):  # a Triton without the NVIDIA backend
        ptxas = ""
    return ToolchainKey(triton.__version__, ptxas, CODEGEN)


def kernel_key(op: str, kernel: str, role: Role, spec_hash: str, module: str) -> KernelKey:
    """The key of one kernel.

    Args:
        op: the operator.
        kernel: name as in ``launch_<kernel>``, or ``OPERATOR``.
        role: where it runs.
        spec_hash: of the recurrence (``SPEC["spec_hash"]``).
        module: text of the generated file; CONFIGS and comments make no difference.
    """
    return KernelKey(op, kernel, role, spec_hash, source_hash(kernel_source(module, kernel)))


def kernel_source(module: str, kernel: str) -> str:
    """The launcher of a kernel, the kernel and every helper it calls, without docstrings.

    Raises:
        KeyError: there is no launcher of that name.
    """
    functions = _functions(module)
    if kernel == OPERATOR:
        wanted = {name for name in functions if name.startswith("launch_")}
    else:
        wanted = {f"launch_{kernel}"}
    found: dict[str, str] = {}
    while wanted:
        name = wanted.pop()
        node = functions[name]
        named = {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}
        # Not into plain Python helpers such as _config: they decide nothing about the code.
        wanted |= {n for n in named if n in functions and _is_kernel(functions[n])} - set(found)
        wanted.discard(name)
        found[name] = ast.unparse(node)
    return "\n\n".join(found[name] for name in sorted(found))


@functools.lru_cache(maxsize=2)
def _functions(module: str) -> dict[str, ast.FunctionDef]:
    """The functions of a file by name; all kernels of one file are asked for in a row."""
    found = {}
    for node in ast.parse(module).body:
        if isinstance(node, ast.FunctionDef):
            if ast.get_docstring(node) is not None:
                node.body = node.body[1:] or [ast.Pass()]
            found[node.name] = node
    return found


def _is_kernel(function: ast.FunctionDef) -> bool:
    return any(ast.unparse(d).startswith("triton.") for d in function.decorator_list)
