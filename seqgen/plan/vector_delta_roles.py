"""A recurrence with one decay per key channel and an erase taken into roles.

    S = D S + b (y + a . S') + k v,    S' = D S or the state before its decay

``a`` and ``b`` are the roles ``erase_key`` and ``put``. In the delta family ``y`` is the value and
there is no ``k``; if ``b`` is -a times a number per token (the delta rule), the role ``key`` is -a
and b = write key. Otherwise there is no ``y``. Other row factors are part of the tiles. A decay
that is the same for all channels counts as one per channel.
"""

from __future__ import annotations

from dataclasses import replace

from seqgen.ir.expr import Expr, Index, Number, call, neg
from seqgen.ir.recurrence import Recurrence
from seqgen.passes.affine import product, remove
from seqgen.passes.simplify import simplify
from seqgen.passes.structure import Component, Structure
from seqgen.plan.linear_roles import (
    Finder,
    Role,
    Roles,
    check_read_after,
    matrix_component,
    require,
)
from seqgen.plan.vector_roles import weighted


def find_erase_roles(recurrence: Recurrence, structure: Structure) -> Roles:
    """The roles of ``recurrence``: query, key or put, value and gate, then the others.

    Raises:
        NoFastFormError: the chunkwise schedule does not cover it.
    """
    return _find(recurrence, structure, matrix_component(recurrence, structure))


def find_read_erase_roles(recurrence: Recurrence, structure: Structure) -> Roles:
    """The same where the output contracts the other axis than the erase, as in Oja's rule.

    Key and value axis are those of the output: queries and values are over the key axis, the
    others over the value axis.

    Raises:
        NoFastFormError: the chunkwise schedule does not cover it.
    """
    component = matrix_component(recurrence, structure, "value")
    require(component.step.delta is not None, "the value axis is contracted")
    roles = _find(recurrence, structure, component)
    return replace(roles, key=roles.value, value=roles.key)


def _find(recurrence: Recurrence, structure: Structure, component: Component) -> Roles:
    require(len(recurrence.states) == 1, "there are several states")
    require(len(component.step.erases) == 1, "a token takes several erases")
    check_read_after(component)
    require("value" not in component.decay, "the decay is per value channel")
    return _EraseFinder(recurrence, component, structure).erase_roles(component)


class _EraseFinder(Finder):
    def erase_roles(self, component: Component) -> Roles:
        step, form = component.step, component.form
        assert form is not None
        # The roles of a write without an erase, to which those of the erase come.
        plain = replace(form, steps=(replace(step, delta=None),))
        self.component = replace(component, form=plain)
        roles = self.roles()
        query = weighted(roles.tiles[0], roles.read)
        gate = self.tile("gate", self.key, self.over_channels(component.log_decay), "float32")
        write: Expr | None = None
        tiles: tuple[Role, ...]
        if step.delta is None:
            (erase,) = step.erases
            row = self.whole(erase.row, "erase_key", self.key)
            put = self.whole(erase.put, "put", self.key)
            key = self.whole(component.key, "key", self.key)
            value = self.whole(component.value, "value", self.value)
            tiles = (query, put, value, gate, row, key)
        else:
            delta = step.delta
            value = self.whole(delta.y, "value", self.value)
            key, of_key = self.split(delta.x, "key", self.key)
            row, of_row = self.split(delta.r, "key", self.key)
            weights = remove(of_key, tuple(f for f in of_row if f != Number(1.0)))
            if row.tile == key.tile and weights is not None:
                key = self.whole(delta.r, "key", self.key)
                weights = tuple(f for f in weights if f != Number(1.0))
                write = simplify(product(weights)) if weights else None
                tiles = (query, key, value, gate)
            else:
                put = self.whole(delta.x, "put", self.key)
                row = self.whole(neg(delta.r), "erase_key", self.key)
                tiles = (query, put, value, gate, row)
        return replace(roles, tiles=tiles, decay=None, write=write, read=None)

    def over_channels(self, log: Expr | None) -> Expr:
        """A log-decay as a tile over the key axis."""
        log = Number(0.0) if log is None else self.spelled(log)
        if self.key in log.axes:
            return log
        everywhere = call("ge", Index(self.key), Number(0.0))
        return call("where", everywhere, log, Number(0.0))
