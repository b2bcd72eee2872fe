"""Roles of a recurrence for the kernels of its transposed state.

What a recurrence and that of the transposed state compute is one sum over pairs of tokens, linear
in queries, gradients of what is read, and what is written. Exchange the first two: gradients are
what they were, but the one of the queries, which is now what is read. So kernels for one decay per
key channel serve where it is one per value channel.
"""

from __future__ import annotations

from dataclasses import replace

from seqgen.ir.expr import Ref
from seqgen.ir.recurrence import Tensor
from seqgen.plan.linear_roles import Leaf, Role, Roles


def transposed(roles: Roles, writers: tuple[Role, ...]) -> Roles:
    """Roles of the same recurrence with key and value axis exchanged.

    Args:
        roles: as the operator has them; the gradient of what is read takes the place of the query.
        writers: what follows it: key, value and gate, as the kernels are to see them.
    """
    axes = (roles.head, roles.value)
    own = roles.state.axes[0] == roles.head
    tensor = Tensor("d_read", axes if own else axes[1:], "input", "d_read")
    read = Ref(roles.source, axes)
    seed = Role("query", roles.value, read, Leaf(tensor, "H" if own else "1", axes))
    return replace(
        roles,
        key=roles.value,
        value=roles.key,
        tiles=(seed, *writers),
        output=replace(roles.output, value=read, dtype=None),
    )
