"""What a schedule hands to the renderer: kernels with their launchers, and how to call them."""

from __future__ import annotations

from dataclasses import dataclass, replace

from seqgen.plan.knobs import KernelSpace


@dataclass(frozen=True)
class KernelPart:
    """One kernel with its host launcher: a template and the plan that fills it.

    ``stages`` are prefixes, the outermost first, of all names that it defines: kernels of a stage
    stand beside those of the whole operator or of another stage.
    """

    name: str
    template: str
    plan: object
    stages: tuple[str, ...] = ()


@dataclass(frozen=True)
class SchedulePlan:
    """A way to run an operator on a GPU.

    ``helpers`` names files of templates/helpers that the kernels use. ``forward_call`` sets the
    outputs and ``<state>_final`` from the argument tensors, ``<state>_0``, ``cu_seqlens``,
    ``want_final`` and ``sizes``; ``backward_call`` sets ``gradients``, one per argument and
    initial state, from the same names and ``d_<output>``, ``d_<state>_final`` (None if absent).
    ``kept`` is in forward None or a list that may get tensors, in backward these or nothing;
    ``keeps`` says, in the generated file, how many. ``fits`` says there which calls these lines
    serve; "" is all of them. ``spaces`` declares the knobs of each kernel, with the configuration
    for where nothing was tuned. ``notes`` are sentences that a user should read when the operator
    is built. ``fallback`` says when the calls take the token-serial kernels instead; "" if they
    never do. ``slow_output`` names the output for which there is no chunkwise schedule; "" if there
    is one, or if the reason is another.
    """

    name: str
    helpers: tuple[str, ...]
    kernels: tuple[KernelPart, ...]
    forward_call: tuple[str, ...]
    backward_call: tuple[str, ...]
    spaces: tuple[KernelSpace, ...]
    notes: tuple[str, ...] = ()
    fallback: str = ""
    slow_output: str = ""
    fits: str = ""
    keeps: str = "0"


def with_fallback(fast: SchedulePlan, universal: SchedulePlan) -> SchedulePlan:
    """``fast`` for the calls that fit it, and ``universal`` for the others."""

    def choice(chosen: tuple[str, ...], other: tuple[str, ...]) -> tuple[str, ...]:
        indented = [f"    {line}" for line in chosen]
        return (f"if {fast.fits}:", *indented, "else:", *(f"    {line}" for line in other))

    helpers = ("arithmetic", *universal.helpers, *fast.helpers)
    return replace(
        fast,
        helpers=tuple(dict.fromkeys(helpers)),
        kernels=(*fast.kernels, *universal.kernels),
        forward_call=choice(fast.forward_call, universal.forward_call),
        backward_call=choice(fast.backward_call, universal.backward_call),
        spaces=(*fast.spaces, *universal.spaces),
        notes=(*fast.notes, *universal.notes),
        fits="",
    )
