"""FLA's functions as compiled kernels in bfloat16, against loops in float64."""

import pytest
import torch
import torch.nn.functional as F

from seqgen.compat import fla
from tests.compat import loops

B, T, H, D = 1, 130, 2, 64


def draw(*shape):
    return torch.randn(*shape, device="cuda")


@pytest.fixture
def tensors():
    torch.manual_seed(0)
    made = {name: draw(B, T, H, D).bfloat16() for name in ("q", "k", "v")}
    made |= {"g": F.logsigmoid(draw(B, T, H)), "gk": F.logsigmoid(draw(B, T, H, D))}
    made["beta"] = draw(B, T, H).sigmoid()
    return {name: x.requires_grad_() for name, x in made.items()}


def simple_gla(q, k, v, g, beta, gk):
    found = fla.chunk_simple_gla(q, k, v, g, scale=0.2, output_final_state=True)
    q, k, v, g = (x.double() for x in (q, k, v, g))
    return found, loops.linear(q, k, v, g.exp()[..., None, None], scale=0.2)


def gated_delta_rule(q, k, v, g, beta, gk):
    options = {"use_qk_l2norm_in_kernel": True, "output_final_state": True}
    found = fla.chunk_gated_delta_rule(q, k, v, g, beta, **options)
    q, k, v, g, beta = (x.double() for x in (q, k, v, g, beta[..., None]))
    decay = g.exp()[..., None, None]
    return found, loops.delta(loops.unit(q), loops.unit(k), v, beta, decay)


def kda(q, k, v, g, beta, gk):
    options = {"use_qk_l2norm_in_kernel": True, "output_final_state": True}
    found = fla.chunk_kda(q, k, v, gk, beta, **options)
    q, k, v, gk, beta = (x.double() for x in (q, k, v, gk, beta[..., None]))
    return found, loops.delta(loops.unit(q), loops.unit(k), v, beta, gk.exp()[..., None])


@pytest.mark.parametrize("function", [simple_gla, gated_delta_rule, kda])
def test_kernels_behind_the_names(function, tensors):
    found, expected = function(**tensors)
    read = [x for n, x in tensors.items() if n in ("q", "k", "v")]
    grads = [torch.autograd.grad(pair[0].sum(), read) for pair in (found, expected)]
    pairs = zip((*found, *grads[0]), (*expected, *grads[1]), strict=True)
    for mine, truth in pairs:
        error = (mine.double() - truth.double()).square().mean().sqrt()
        assert error < 0.008 * truth.double().square().mean().sqrt()
