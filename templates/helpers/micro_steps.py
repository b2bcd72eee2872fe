"""Tokens of several micro-steps as that many tokens, and back."""

import torch


def _own_steps(tensor, place):
    """[B, T, ..., R, ...] with R at ``place`` behind T as [B, T * R, ...]."""
    return None if tensor is None else tensor.movedim(2 + place, 2).flatten(1, 2)


def _each_step(tensor, steps):
    """[B, T, ...] as [B, T * R, ...]: every micro-step sees what its token has."""
    return None if tensor is None else tensor.repeat_interleave(steps, 1)


def _step_flags(like, sizes, steps, step):
    """[B, T * R], fp32: 1 at micro-step number ``step`` of each token, else 0."""
    flags = like.new_zeros((sizes["B"], sizes["T"], steps), dtype=torch.float32)
    flags[:, :, step] = 1.0
    return flags.flatten(1)


def _count_steps(cu_seqlens, sizes, steps):
    """Borders of packed sequences and the length, in micro-steps."""
    borders = None if cu_seqlens is None else cu_seqlens * steps
    return borders, {**sizes, "T": sizes["T"] * steps}


def _last_steps(output, steps):
    """[B, T, ...] of [B, T * R, ...]: each token's last micro-step."""
    return output[:, steps - 1 :: steps].contiguous()


def _at_last_steps(gradient, steps):
    """[B, T, ...] as [B, T * R, ...], 0 but at each token's last micro-step."""
    if gradient is None:
        return None
    B, T, *axes = gradient.shape
    result = gradient.new_zeros((B, T * steps, *axes))
    result[:, steps - 1 :: steps] = gradient
    return result


def _sum_steps(gradient, steps):
    """[B, T, ...] of [B, T * R, ...]: the sum over each token's micro-steps."""
    return None if gradient is None else _sum_over(gradient.unflatten(1, (-1, steps)), 2)  # noqa: F821


def _split_steps(gradient, steps, place):
    """[B, T, ..., R, ...] of [B, T * R, ...], R at ``place`` behind T."""
    if gradient is None:
        return None
    return gradient.unflatten(1, (-1, steps)).movedim(2, 2 + place).contiguous()
