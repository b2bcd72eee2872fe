"""The chunk form and its hand-derived adjoint, executed: what the chunkwise kernels compute.

One token of every matrix-state family is

    S <- D S + sum_c key_c w_c^T        w_c = base_c + sign_c * (row_c . S')

with a diagonal ``D = exp(g_key) (x) exp(g_value)``. A column ``c`` of the linear family is a write
(``base`` = v, no row); of dplr a write or an erase (``base`` 0, ``sign`` 1, row a, key b); of delta
the pair of both (``base`` = y, ``sign`` -1, row r, key x). Rows, of columns and of reads, see S':
the state before the token (``old``), after its decay (``decayed``) or after the token (``new``).

Inside a chunk the time axis is halved again and again. A tile pairs the rows right of a middle
with the columns left of it, and the decay between two tokens is split there: the prefix sum of
gates from the middle to the row, the suffix sum from the column to the middle. No cumulative sum
is ever subtracted, so every factor is the decay of a real interval and gates may be -inf.
Gradients of gates are direct sums over the pairs that an interval of the gate separates.

Shapes: ``[..., T, K]`` on the key side, ``[..., T, V]`` on the value side (1 broadcasts), states
``[..., K, V]`` with all leading dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True)
class Row:
    """A contraction of the state: ``weight . S'`` over the key (or the value) axis."""

    weight: Tensor
    sees: str  # "old", "decayed" or "new"
    axis: str = "key"


@dataclass(frozen=True)
class Column:
    """A rank-one change of the state: ``key w^T``. ``base`` None is zero."""

    key: Tensor
    base: Tensor | None = None
    row: Row | None = None
    sign: float = 1.0


@dataclass(frozen=True)
class Roles:
    """One state's recurrence in normal form. Gates are natural-log decays, None is no decay."""

    columns: tuple[Column, ...]
    reads: tuple[Row, ...]
    g_key: Tensor | None = None
    g_value: Tensor | None = None


@dataclass
class Gradients:
    """In the order of ``Roles``: per column key, base and row (None without one), per read."""

    keys: list[Tensor]
    bases: list[Tensor]
    rows: list[Tensor | None]
    reads: list[Tensor]
    g_key: Tensor
    g_value: Tensor
    initial: Tensor


def forward(roles: Roles, initial: Tensor, chunk: int) -> tuple[list[Tensor], Tensor, list[Tensor]]:
    """Results of the reads, the final state, and the state at the start of every chunk."""
    length = roles.columns[0].key.shape[-2]
    state, borders, parts = initial, [], []
    for start in range(0, length, chunk):
        borders.append(state)
        piece = _Chunk(_slice(roles, start, start + chunk), state)
        piece.forward()
        parts.append(piece.results[: len(roles.reads)])
        state = piece.final()
    results = [torch.cat(rows, -2) for rows in zip(*parts, strict=True)]
    return results, state, borders


def backward(
    roles: Roles,
    borders: Sequence[Tensor],
    d_results: Sequence[Tensor],
    d_final: Tensor,
    chunk: int,
) -> Gradients:
    """Gradients of all roles from those of the reads and of the final state.

    Nothing but the states at chunk borders is kept from ``forward``.
    """
    d_state = d_final
    pieces: list[_Chunk] = []
    for i in reversed(range(len(borders))):
        start = i * chunk
        piece = _Chunk(_slice(roles, start, start + chunk), borders[i])
        piece.forward()
        d_state = piece.backward([d[..., start : start + chunk, :] for d in d_results], d_state)
        pieces.insert(0, piece)

    def joined(name: str, i: int) -> Tensor:
        return torch.cat([getattr(piece, name)[i] for piece in pieces], -2)

    columns, reads = range(len(roles.columns)), range(len(roles.reads))
    owners = [c for c in columns if roles.columns[c].row is not None]
    place = {c: len(reads) + n for n, c in enumerate(owners)}
    return Gradients(
        keys=[joined("d_keys", c) for c in columns],
        bases=[joined("d_values", c) for c in columns],
        rows=[joined("d_rows", place[c]) if c in place else None for c in columns],
        reads=[joined("d_rows", r) for r in reads],
        g_key=torch.cat([piece.d_g[0] for piece in pieces], -2),
        g_value=torch.cat([piece.d_g[1] for piece in pieces], -2),
        initial=d_state,
    )


def _slice(roles: Roles, start: int, stop: int) -> Roles:
    def cut(value: Tensor) -> Tensor:
        return value[..., start:stop, :]

    def row(r: Row) -> Row:
        return Row(cut(r.weight), r.sees, r.axis)

    columns = tuple(
        Column(
            cut(c.key),
            None if c.base is None else cut(c.base),
            None if c.row is None else row(c.row),
            c.sign,
        )
        for c in roles.columns
    )
    g_key, g_value = (None if g is None else cut(g) for g in (roles.g_key, roles.g_value))
    return Roles(columns, tuple(row(r) for r in roles.reads), g_key, g_value)


def prefix(g: Tensor, exclusive: bool) -> Tensor:
    """Decay from the first token to this one, both included (or to the one before)."""
    if exclusive:
        g = torch.cat((torch.zeros_like(g[..., :1, :]), g[..., :-1, :]), -2)
    return g.cumsum(-2).exp()


def suffix(g: Tensor) -> Tensor:
    """Decay after this token, to the last one."""
    shifted = torch.cat((g[..., 1:, :], torch.zeros_like(g[..., :1, :])), -2)
    return shifted.flip(-2).cumsum(-2).flip(-2).exp()


def _rows_after(value: Tensor, exclusive: bool) -> Tensor:
    """Per gate m the sum over the rows i >= m (i > m) whose decay contains it."""
    total = value.flip(-2).cumsum(-2).flip(-2)
    if exclusive:
        total = torch.cat((total[..., 1:, :], torch.zeros_like(total[..., :1, :])), -2)
    return total


def _columns_before(value: Tensor) -> Tensor:
    """Per gate m the sum over the columns j < m."""
    return torch.cat((torch.zeros_like(value[..., :1, :]), value[..., :-1, :]), -2).cumsum(-2)


@dataclass
class _Side:
    """Of a tile and one axis (key or value): factors of its rows and of its columns."""

    rows: Tensor
    columns: Tensor


@dataclass
class _Chunk:
    """One chunk. Index 0 is the key side, 1 the value side; ``rows`` = reads, then erases."""

    roles: Roles
    state: Tensor
    rows: list[Row] = field(init=False)
    owner: list[int | None] = field(init=False)
    keys: list[Tensor] = field(init=False)
    values: list[Tensor] = field(init=False)
    results: list[Tensor] = field(init=False)

    def __post_init__(self) -> None:
        roles, (k, v) = self.roles, self.state.shape[-2:]
        first = roles.columns[0].key
        shape = self.state.shape[:-2]
        self.length = first.shape[-2]
        self.keys = [c.key.expand(*shape, self.length, k) for c in roles.columns]
        zero = self.state.new_zeros(*shape, self.length, v)
        self.values = [zero + (0.0 if c.base is None else c.base) for c in roles.columns]
        self.rows = [*roles.reads, *(c.row for c in roles.columns if c.row is not None)]
        owners = [i for i, c in enumerate(roles.columns) if c.row is not None]
        self.owner = [*(None for _ in roles.reads), *owners]
        self.sizes = (k, v)
        self.gates = [
            self.state.new_zeros(*shape, self.length, n) if g is None
            else g.expand(*shape, self.length, n)
            for g, n in ((roles.g_key, k), (roles.g_value, v))
        ]  # fmt: skip
        self.results = [
            self.state.new_zeros(*shape, self.length, self.sizes[1 - self.side(row)])
            for row in self.rows
        ]

    @staticmethod
    def side(row: Row) -> int:
        """The axis that a row contracts."""
        return 0 if row.axis == "key" else 1

    def operands(self, row: Row, c: int) -> tuple[Tensor, Tensor]:
        """Of column ``c``: what the row contracts, and what it gives."""
        pair = (self.keys[c], self.values[c])
        return pair if row.axis == "key" else (pair[1], pair[0])

    def facing(self, row: Row) -> tuple[Tensor, Tensor, Tensor]:
        """Gates of the contracted and the given side, the state with the contracted axis first."""
        own = self.side(row)
        state = self.state if own == 0 else self.state.mT
        return self.gates[own], self.gates[1 - own], state

    # Forward ----------------------------------------------------------------------------------

    def forward(self) -> None:
        for n, row in enumerate(self.rows):
            old = row.sees == "old"
            g_in, g_out, state = self.facing(row)
            read = (row.weight * prefix(g_in, old)) @ state
            self.results[n] = self.results[n] + read * prefix(g_out, old)
        self._forward(0, self.length)

    def _forward(self, low: int, high: int) -> None:
        if high - low == 1:
            for n, owner in enumerate(self.owner):
                if owner is not None:
                    change = self.roles.columns[owner].sign * self.results[n][..., low, :]
                    self.values[owner][..., low, :] += change
            for n, row in enumerate(self.rows):
                for c in range(len(self.keys)) if row.sees == "new" else ():
                    seen, given = (x[..., low, :] for x in self.operands(row, c))
                    score = (row.weight[..., low, :] * seen).sum(-1, keepdim=True)
                    self.results[n][..., low, :] += score * given
            return
        middle = (low + high) // 2
        self._forward(low, middle)
        left, right = slice(low, middle), slice(middle, high)
        for n, row in enumerate(self.rows):
            inner, outer = self.factors(row, left, right)
            for c in range(len(self.keys)):
                seen, given = (x[..., left, :] for x in self.operands(row, c))
                scores = (row.weight[..., right, :] * inner.rows) @ (seen * inner.columns).mT
                part = outer.rows * (scores @ (given * outer.columns))
                self.results[n][..., right, :] += part
        self._forward(middle, high)

    def factors(self, row: Row, left: slice, right: slice) -> tuple[_Side, _Side]:
        """Anchored factors of a tile, for the contracted and for the given side."""
        old = row.sees == "old"
        g_in, g_out, _ = self.facing(row)
        inner, outer = (
            _Side(prefix(g[..., right, :], old), suffix(g[..., left, :])) for g in (g_in, g_out)
        )
        return inner, outer

    def total(self) -> Tensor:
        """The decay of the whole chunk, ``[..., K, V]``."""
        key, value = (g.sum(-2).exp() for g in self.gates)
        return key.unsqueeze(-1) * value.unsqueeze(-2)

    def final(self) -> Tensor:
        """The state after the chunk."""
        result = self.total() * self.state
        s_key, s_value = map(suffix, self.gates)
        for key, value in zip(self.keys, self.values, strict=True):
            result = result + (key * s_key).mT @ (value * s_value)
        return result

    # Backward ---------------------------------------------------------------------------------

    def backward(self, d_results: list[Tensor], d_final: Tensor) -> Tensor:
        """Fills ``d_keys``, ``d_values``, ``d_rows``, ``d_g``; returns the state's gradient."""
        self.d_results = [*d_results, *map(torch.zeros_like, self.results[len(d_results) :])]
        self.d_rows = [torch.zeros_like(r.weight + self.gates[self.side(r)]) for r in self.rows]
        self.d_g = [torch.zeros_like(g) for g in self.gates]
        d_state = self.carry_out(d_final)
        self._backward(0, self.length)
        return d_state + self.carry_in()

    def carry_out(self, d_final: Tensor) -> Tensor:
        s_key, s_value = map(suffix, self.gates)
        self.d_keys, self.d_values = [], []
        for key, value in zip(self.keys, self.values, strict=True):
            self.d_keys.append(s_key * ((value * s_value) @ d_final.mT))
            self.d_values.append(s_value * ((key * s_key) @ d_final))
            self.d_g[0] += _columns_before(key * self.d_keys[-1])
            self.d_g[1] += _columns_before(value * self.d_values[-1])
        through = self.total() * d_final
        self.d_g[0] += (through * self.state).sum(-1).unsqueeze(-2)
        self.d_g[1] += (through * self.state).sum(-2).unsqueeze(-2)
        return through

    def carry_in(self) -> Tensor:
        d_state = torch.zeros_like(self.state)
        for n, row in enumerate(self.rows):
            own, old = self.side(row), row.sees == "old"
            g_in, g_out, state = self.facing(row)
            inner, outer = prefix(g_in, old), prefix(g_out, old)
            d_read = self.d_results[n] * outer
            d_row = inner * (d_read @ state.mT)
            part = outer * ((row.weight * inner) @ state)
            self.d_rows[n] += d_row
            self.d_g[own] += _rows_after(row.weight * d_row, old)
            self.d_g[1 - own] += _rows_after(self.d_results[n] * part, old)
            outer_product = (row.weight * inner).mT @ d_read
            d_state = d_state + (outer_product if own == 0 else outer_product.mT)
        return d_state

    def _backward(self, low: int, high: int) -> None:
        if high - low == 1:
            for n, row in enumerate(self.rows):
                for c in range(len(self.keys)) if row.sees == "new" else ():
                    self.diagonal(n, row, c, low)
            for n, owner in enumerate(self.owner):
                if owner is not None:
                    change = self.roles.columns[owner].sign * self.d_values[owner][..., low, :]
                    self.d_results[n][..., low, :] += change
            return
        middle = (low + high) // 2
        self._backward(middle, high)
        left, right = slice(low, middle), slice(middle, high)
        for n, row in enumerate(self.rows):
            inner, outer = self.factors(row, left, right)
            for c in range(len(self.keys)):
                self.tile(n, row, c, left, right, inner, outer)
        self._backward(low, middle)

    def diagonal(self, n: int, row: Row, c: int, i: int) -> None:
        """A read of the token's own change: no decay between them."""
        seen, given = (x[..., i, :] for x in self.operands(row, c))
        d_seen, d_given = self.d_operands(row, c)
        weight, d_result = row.weight[..., i, :], self.d_results[n][..., i, :]
        d_score = (d_result * given).sum(-1, keepdim=True)
        self.d_rows[n][..., i, :] += d_score * seen
        d_given[..., i, :] += (weight * seen).sum(-1, keepdim=True) * d_result
        d_seen[..., i, :] += d_score * weight

    def d_operands(self, row: Row, c: int) -> tuple[Tensor, Tensor]:
        pair = (self.d_keys[c], self.d_values[c])
        return pair if row.axis == "key" else (pair[1], pair[0])

    def tile(
        self, n: int, row: Row, c: int, left: slice, right: slice, inner: _Side, outer: _Side
    ) -> None:
        """The adjoint of one tile: each part is a product that contains the gate it belongs to."""
        own, old = self.side(row), row.sees == "old"
        seen, given = (x[..., left, :] for x in self.operands(row, c))
        d_seen, d_given = self.d_operands(row, c)
        weight, d_result = row.weight[..., right, :], self.d_results[n][..., right, :]
        scores = (weight * inner.rows) @ (seen * inner.columns).mT
        d_scores = (d_result * outer.rows) @ (given * outer.columns).mT
        row_part = inner.rows * (d_scores @ (seen * inner.columns))
        column_part = inner.columns * (d_scores.mT @ (weight * inner.rows))
        out_part = outer.rows * (scores @ (given * outer.columns))
        given_part = outer.columns * (scores.mT @ (d_result * outer.rows))
        self.d_rows[n][..., right, :] += row_part
        d_seen[..., left, :] += column_part
        d_given[..., left, :] += given_part
        self.d_g[own][..., right, :] += _rows_after(weight * row_part, old)
        self.d_g[own][..., left, :] += _columns_before(seen * column_part)
        self.d_g[1 - own][..., right, :] += _rows_after(d_result * out_part, old)
        self.d_g[1 - own][..., left, :] += _columns_before(given * given_part)
