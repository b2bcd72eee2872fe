"""The large kernels of the linear schedule: what their templates place."""

from __future__ import annotations

from dataclasses import dataclass

from seqgen.ir.expr import Apply, Expr, Number, Size
from seqgen.plan.linear_epilogue import Epilogue
from seqgen.plan.linear_roles import HOST, Role, Roles
from seqgen.plan.linear_rows import Rows
from seqgen.plan.linear_tiles import shape_comment, sizes_text

Lines = tuple[str, ...]


@dataclass(frozen=True)
class LinearPlan:
    """Everything that the templates kernels/linear_*.py.jinja of large kernels place."""

    query: str
    key: str
    value: str
    state: str
    update: str
    decay: bool
    write: bool
    read: bool
    decay_gradient: bool
    reverse: bool
    decay_argument: str
    write_argument: str
    read_argument: str
    first: str
    rows: str
    stride_k: str
    stride_v: str
    sizes: str
    state_shape: str
    scale: str
    result_dtype: str
    planes: str
    # The output kernel's end.
    epilogue: Lines
    epilogue_parameters: Lines
    epilogue_constants: Lines
    epilogue_arguments: str
    epilogue_flag: str
    epilogue_note: str
    epilogue_tensors: Lines
    epilogue_values: Lines
    # The backward kernel's variants.
    value_extra: bool
    extra_argument: str
    backward_parameters: Lines
    rows_lines: Lines
    weights_t: Lines
    carry_out: Lines
    write_gradient: Lines
    pairs: Lines
    carry_in: Lines
    read_gradient: Lines


def plan_kernels(roles: Roles, rows: Rows, epilogue: Epilogue) -> LinearPlan:
    """The plan of all large kernels."""
    rec, state = roles.recurrence, roles.state
    decay, write, read = (x is not None for x in (roles.decay, roles.write, roles.read))
    extra = value_extra(roles, epilogue)
    headed = state.axes[0] == roles.head
    key_first = state.axes.index(roles.key) < state.axes.index(roles.value)
    places = ['sizes["sequences"]', *(["H"] if headed else [])]
    places += ["K", "V"] if key_first else ["V", "K"]
    layout = f"[sequences, {', '.join(state.axes)}]"
    weights = write + read
    planes = f"{weights} * n_blocks"
    result = "torch.float32" if roles.output.dtype == "float32" else "v.dtype"
    if epilogue.lines and result == "v.dtype":
        result = "v.dtype if epilogue else torch.float32"
    if rows.decay_gradient:
        planes = f"2 + {3 + weights} * n_blocks"
    return LinearPlan(
        query=operand(roles.tiles[0]),
        key=operand(roles.tiles[1]),
        value=operand(roles.tiles[2]),
        state=layout,
        update="; ".join(e for e in rec.equations if e.startswith(f"{state.name} = ")),
        decay=decay,
        write=write,
        read=read,
        decay_gradient=rows.decay_gradient,
        reverse=rec.reverse,
        decay_argument="decay_ptr" if decay else "None",
        write_argument="write_ptr" if write else "None",
        read_argument="read_ptr" if read else "None",
        first="bos + length - 1 - t0" if rec.reverse else "bos + t0",
        rows="-i" if rec.reverse else "i",
        stride_k="V" if key_first else "1",
        stride_v="1" if key_first else "K",
        sizes=sizes_text(roles, parent=False)[1],
        state_shape=f"({', '.join(places)})",
        scale=f"float({_scale(roles.scale)})",
        result_dtype=result,
        planes=planes,
        epilogue=epilogue.lines,
        epilogue_parameters=epilogue.parameters,
        epilogue_constants=epilogue.constants,
        epilogue_arguments="".join(f" {text}" for text in epilogue.launch),
        epilogue_flag=", epilogue" if epilogue.lines else "",
        epilogue_note=", or what was read if not ``epilogue``" if epilogue.lines else "",
        epilogue_tensors=epilogue.launch,
        epilogue_values=epilogue.values,
        value_extra=extra,
        extra_argument=" extra," if extra else "",
        backward_parameters=_backward_parameters(roles, decay, write, read, extra),
        rows_lines=_rows_lines(rows, decay, write, read),
        weights_t=_weights_t(decay, read),
        carry_out=_carry_out(rows, write),
        write_gradient=_write_gradient(rows, write),
        pairs=_pairs(rows, decay, write),
        carry_in=_carry_in(rows, decay, write, read),
        read_gradient=_read_gradient(rows, write, read),
    )


def operand(role: Role) -> str:
    """``q [B, T, H, K]``."""
    if role.leaf is None:
        return f"the {role.name}, [B, T, H, {role.axis}]"
    return f"{role.leaf.tensor.name} {shape_comment(role.leaf)}"


def _scale(expr: Expr) -> str:
    """Launcher text of the numbers that multiply the read, always in brackets."""
    if isinstance(expr, Number):
        return repr(expr.value)
    if isinstance(expr, Size):
        return f'sizes["{expr.axis}"]'
    assert isinstance(expr, Apply) and expr.op in HOST, expr
    first, *rest = (_scale(arg) for arg in expr.args)
    return f"({first} {HOST[expr.op]} {rest[0]})" if rest else HOST[expr.op].format(first)


def value_extra(roles: Roles, epilogue: Epilogue) -> bool:
    """Whether the value is a tensor that the output reads as well, with a gradient of its own."""
    leaf = roles.tiles[2].leaf
    return leaf is not None and leaf in epilogue.gradients


def _backward_parameters(roles: Roles, decay: bool, write: bool, read: bool, extra: bool) -> Lines:
    lines = [
        f"q_ptr,  # {operand(roles.tiles[0])}",
        f"k_ptr,  # {operand(roles.tiles[1])}",
        f"v_ptr,  # {operand(roles.tiles[2])}",
        "d_read_ptr,  # [B, T, H, V], gradient of what is read",
        "q_desc, k_desc, v_desc, d_read_desc, states_desc, d_states_desc,  # or None",
    ]
    lines += ["decay_ptr,  # [planes, chunks, H, 64], log2"] * decay
    lines += ["write_ptr,  # [chunks, H, 64], weight of each write"] * write
    lines += ["read_ptr,  # [chunks, H, 64], weight of each read"] * read
    lines += [
        "states_ptr,  # [chunks, H, K, V], before each chunk",
        "d_states_ptr,  # [chunks, H, K, V], gradient of the state after each chunk",
        *["extra_ptr,  # [B, T, H, V], gradient of the values through the output"] * extra,
        "d_q_ptr,  # [B, T, H, K]",
        "d_k_ptr,  # [B, T, H, K]",
        "d_v_ptr,  # [B, T, H, V]",
        "sums_ptr,  # [planes, chunks, H, 64], for gradients of decays and weights",
        "cu_seqlens_ptr,",
        "starts_ptr,",
        "owners_ptr,",
        "T,",
        "NT,",
        "PLANE,",
        "blocks,",
        "scale,",
    ]
    names = ("H", "HQ", "HK", "HV", "K", "V", "BK", "BV")
    return (*lines, *(f"{name}: tl.constexpr," for name in names))


def _rows_lines(rows: Rows, decay: bool, write: bool, read: bool) -> Lines:
    lines = []
    if decay:
        lines += [
            'EXACT: tl.constexpr = PRECISION == "tf32x3"',
            "high, low = load_decay(decay_ptr, chunk, h, i, PLANE, H, EXACT)",
            "end_high, end_low = load_decay(decay_ptr, chunk, h, 63, PLANE, H, EXACT)",
            "suffix = tl.exp2((end_high - high) + (end_low - low))",
        ]
    if write:
        lines.append("write = tl.load(write_ptr + in_rows * 64 + i)")
    if read:
        lines.append("read = tl.load(read_ptr + in_rows * 64 + i)")
    if rows.decay_gradient or write or read:
        lines.append("sums_ptr += in_rows * 64")
    return tuple(lines)


def _weights_t(decay: bool, read: bool) -> Lines:
    lines = []
    if decay:
        lines.append("weights_t = decay_matrix(high, low, causal_t, EXACT, True) * scale")
        lines.append("d_v = d_v * suffix[:, None]")
    else:
        lines.append("weights_t = tl.where(causal_t, scale, 0.0)")
    if read:
        lines.append("weights_t = weights_t * read[None, :]")
    return tuple(lines)


def _carry_out(rows: Rows, write: bool) -> Lines:
    if not rows.decay_gradient:
        return ()
    factor = " * write" if write else ""
    return (
        f"carried = tl.sum(d_v * v.to(tl.float32), 1){factor}",
        "tl.store(sums_ptr + (2 + NB + b) * PLANE + i, carried)",
    )


def _start(rows: Rows) -> str:
    return "2 + 3 * NB + " if rows.decay_gradient else ""


def _write_gradient(rows: Rows, write: bool) -> Lines:
    if not write:
        return ()
    place = f"sums_ptr + ({_start(rows)}b) * PLANE + i"
    return (
        f"tl.store({place}, tl.sum(d_v * v.to(tl.float32), 1))",
        "d_v = d_v * write[:, None]",
    )


def _pairs(rows: Rows, decay: bool, write: bool) -> Lines:
    lines = []
    if rows.decay_gradient:
        factor = " * write[:, None]" if write else ""
        lines += [
            "# The decay of token m acts on the pairs j < m <= i.",
            "strict = i[:, None] < i[None, :]",
            f"pairs = d_scores_t * scores_t.to(tl.float32){factor}",
            "pairs = tl.where(strict, pairs, 0.0)",
            "if b == 0:",
            "    tl.store(sums_ptr + PLANE + i, tl.sum(pairs, 1))",
            "    tl.store(sums_ptr + i, tl.sum(pairs, 0))",
        ]
    if write:
        lines.append("weights_t = weights_t * write[:, None]")
    lines.append("d_scores_t = d_scores_t * weights_t")
    factors = [*(["suffix"] if decay else []), *(["write"] if write else [])]
    if factors:
        text = " * ".join(factors)
        lines.append(f"d_k = d_k * ({text})[:, None]")
    return tuple(lines)


def _carry_in(rows: Rows, decay: bool, write: bool, read: bool) -> Lines:
    lines = []
    if decay:
        lines += [
            "d_q = d_q * (tl.exp2(high + low) * scale)[:, None]",
            "weights = decay_matrix(high, low, causal, EXACT, False) * scale",
        ]
    else:
        lines += ["d_q = d_q * scale", "weights = tl.where(causal, scale, 0.0)"]
    if write:
        lines.append("weights = weights * write[None, :]")
    lines.append("d_scores = d_scores * weights")
    if rows.decay_gradient or read:
        lines.append("q_own = q if KEEP else load_rows(q_ptr, rows, valid, b_k, HQ * K, K, OK)")
    if rows.decay_gradient:
        factor = " * read" if read else ""
        lines += [
            f"found = tl.sum(d_q * q_own.to(tl.float32), 1){factor}",
            "tl.store(sums_ptr + (2 + b) * PLANE + i, found)",
        ]
    return tuple(lines)


def _read_gradient(rows: Rows, write: bool, read: bool) -> Lines:
    if not read:
        return ()
    before = f"{_start(rows)}{'NB + ' if write else ''}b"
    return (
        f"tl.store(sums_ptr + ({before}) * PLANE + i, tl.sum(d_q * q_own.to(tl.float32), 1))",
        "d_q = d_q * read[:, None]",
    )
