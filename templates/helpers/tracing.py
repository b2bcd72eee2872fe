"""Whether a call is traced."""

import torch

# Private, and there since PyTorch 2.0; without it every call counts as traced.
_modes = getattr(torch._C, "_len_torch_dispatch_stack", lambda: 1)


def _traced(tensor):
    """Whether PyTorch records or replaces what runs: compile, export, fake tensors, modes.

    Then the registered operators are called; otherwise the same functions without them, which
    saves most of the time of a call on small tensors.
    """
    if torch.compiler.is_compiling() or type(tensor) not in (torch.Tensor, torch.nn.Parameter):
        return True
    return _modes() > 0
