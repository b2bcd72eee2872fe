"""What a generated file looks like to the tuner: h = exp(g) h + x, o = h, without Triton.

The knob ``mode`` breaks it in the ways in which kernels break.
"""

import os
import signal
import time
from functools import lru_cache

import torch

SPEC = {"operator": "toy", "spec_hash": "5" * 64}
CONFIGS = {
    "scan_fwd": [{"config": {"BD": 32, "mode": "right"}, "origin": "default"}],
    "scan_bwd": [{"config": {"BD": 32, "mode": "right"}, "origin": "default"}],
}
RUNS = {"count": 0}


def _key(dtype, load, length, **sizes):
    padded = tuple((axis, 1 << max(size - 1, 0).bit_length()) for axis, size in sizes.items())
    names = {torch.float32: "fp32", torch.bfloat16: "bf16"}
    return (names[dtype], padded, max(load, 1).bit_length() - 1, max(length, 1).bit_length() - 1)


@lru_cache(maxsize=64)
def _config(kernel, key):
    return CONFIGS[kernel][-1]["config"]


def _break(mode, result, scratch):
    RUNS["count"] += 1
    if mode == "crash":
        os.kill(os.getpid(), signal.SIGKILL)
    if mode == "hang":
        time.sleep(600)
    if mode == "raise":
        raise RuntimeError("out of resource: shared memory")
    if mode == "slow":
        time.sleep(0.01)
    if mode == "wrong_at_six" and result.shape[1] == 6:
        return result * 1.01
    if mode == "wrong":
        return result * 1.01
    if mode == "racy":
        return result + 1e-6 * RUNS["count"]
    if mode == "unwritten":
        return result + 0 * scratch.sum()
    return result


def _scan(x, g, h, borders):
    out = torch.empty_like(x)
    finals = []
    for b in range(x.shape[0]):
        for i in range(len(borders) - 1):
            state = h[b if len(borders) == 2 else i]
            for t in range(borders[i], borders[i + 1]):
                state = torch.exp(g[b, t]) * state + x[b, t]
                out[b, t] = state
            finals.append(state)
    return out, torch.stack(finals)


def _borders(cu_seqlens, length):
    return [0, length] if cu_seqlens is None else cu_seqlens.tolist()


def launch_scan_fwd(x, g, h, cu_seqlens):
    """Forward."""
    config = _config("scan_fwd", _key(x.dtype, x.shape[0], x.shape[1], D=x.shape[2]))
    scratch = torch.empty(config["BD"])
    out, final = _scan(x, g, h, _borders(cu_seqlens, x.shape[1]))
    return _break(config["mode"], out, scratch), final


def launch_scan_bwd(x, g, h, cu_seqlens, do, dfinal):
    """Backward, by autograd."""
    config = _config("scan_bwd", _key(x.dtype, x.shape[0], x.shape[1], D=x.shape[2]))
    with torch.enable_grad():
        leaves = [t.detach().requires_grad_() for t in (x, g, h)]
        results = _scan(*leaves, _borders(cu_seqlens, x.shape[1]))
        dx, dg, dh = torch.autograd.grad(results, leaves, (do, dfinal))
    return dx, _break(config["mode"], dg, torch.empty(config["BD"])), dh


class _Toy(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, g, h, cu_seqlens):
        ctx.save_for_backward(x, g, h)
        ctx.cu_seqlens = cu_seqlens
        return launch_scan_fwd(x, g, h, cu_seqlens)

    @staticmethod
    def backward(ctx, do, dfinal):
        return *launch_scan_bwd(*ctx.saved_tensors, ctx.cu_seqlens, do, dfinal), None


def toy(x, g, initial_state=None, output_final_state=False, cu_seqlens=None):
    """The operator."""
    count = x.shape[0] if cu_seqlens is None else len(cu_seqlens) - 1
    h = x.new_zeros(count, x.shape[2]) if initial_state is None else initial_state
    out, final = _Toy.apply(x, g, h, cu_seqlens)
    return out, final if output_final_state else None


def toy_reference(x, g, initial_state=None, output_final_state=False, cu_seqlens=None):
    """The truth."""
    count = x.shape[0] if cu_seqlens is None else len(cu_seqlens) - 1
    h = x.new_zeros(count, x.shape[2]) if initial_state is None else initial_state
    parts = []
    finals = []
    borders = _borders(cu_seqlens, x.shape[1])
    for b in range(x.shape[0]):
        rows = []
        for i in range(len(borders) - 1):
            state = h[b if len(borders) == 2 else i]
            for t in range(borders[i], borders[i + 1]):
                state = torch.exp(g[b, t]) * state + x[b, t]
                rows.append(state)
            finals.append(state)
        parts.append(torch.stack(rows))
    return torch.stack(parts), torch.stack(finals) if output_final_state else None
