"""Prototype of the delta family (DeltaNet, gated DeltaNet; decay none / per head / scalar per token):

    S = e^{g_t} S;  S += beta_t k_t (v_t - k_t^T S)^T;  o_t = scale * q_t^T S;  q, k optionally l2-normalised.

In a chunk of 64 rows, with M_ij = (k_i.k_j) D_ij (i > j), D_ij = e^{G_i - G_j}, S0 the state before it:
    W = Tw (v - e^G k S0),  Tw = (I + M diag(beta))^-1,  U = beta W,
    o = e^G q S0 + B (v - e^G k S0),  B = A Tw,  A_ij = scale (q_i.k_j) D_ij beta_j (i >= j),
    S = e^{tot} S0 + k^T (e^{suffix} U)
    dv = B^T do + Tw^T (beta e^{suffix} k dS),  dS0 = e^{tot} dS + (e^G q)^T do - (e^G k)^T dv
    dA = beta_j do_i.W_j D_ij,  dB_ij = -beta_j dv_i.W_j D_ij (i > j)
    dq = e^G do S0^T + dA k,    dk = beta e^{suffix} W dS^T + dA^T q + dB^T k - e^G dv S0^T + dB k
    dbeta_j = sum_i [(qk)_ij do_i.W_j - M_ij dv_i.W_j] + e^{suffix_j} k_j.(W_j dS^T)     (no v, no dU needed)
norms of k and q (rk, rq) are row factors, folded into e^G, e^{suffix} beta and the score masks.

`TRITON_INTERPRET=1 python proto_delta.py interp` on CPU; check(), bench() on CUDA.
"""
import os
import sys
import time

import torch
import triton
import triton.language as tl
from triton.tools.tensor_descriptor import TensorDescriptor

LOG2E = tl.constexpr(1.4426950408889634)
INTERP = os.environ.get("TRITON_INTERPRET") == "1"
if INTERP:  # numpy >= 2.4 refuses int() of a one-element array, which is what scalars are here
    import triton.runtime.interpreter as _ti
    _orig = _ti._patch_lang_tensor

    def _patched(tensor, *a):
        _orig(tensor, *a)
        a[-1].set_attr(tensor, "__index__", lambda self: int(self.handle.data.item())) if a else None

    _ti._patch_lang_tensor = _patched


# ---------------------------------------------------------------- helpers
@triton.jit
def gate_split(x):
    """x [BT] log2 decay -> (hi, lo): hi a multiple of 1/64, x = hi + lo, cut at -160.

    exp2(-160) is 0 in fp32, so the cut changes no value; sums of up to 1600 `hi` are exact in
    fp32 in any order, so differences of prefix sums lose nothing.
    """
    x = tl.where(x < -160.0, -160.0, x)
    hi = tl.floor(x * 64.0 + 0.5) * 0.015625
    return hi, x - hi


@triton.jit
def load_c(cs, tile, h, i, PLANE, H: tl.constexpr, EXACT: tl.constexpr):
    """Prefix sums of the gates of one tile, log2 units, as (hi, lo); lo is 0 for half dtypes."""
    p = cs + (tile.to(tl.int64) * H + h) * 64 + i
    if EXACT:
        return tl.load(p), tl.load(p + PLANE)
    else:
        return tl.load(p), 0.0


@triton.jit
def span(cu, n, T, VARLEN: tl.constexpr):
    """First row (int64) and length of sequence n; boundaries are clamped to [0, T]."""
    if VARLEN:
        b = tl.minimum(tl.maximum(tl.load(cu + n).to(tl.int32), 0), T)
        e = tl.minimum(tl.maximum(tl.load(cu + n + 1).to(tl.int32), 0), T)
        return b.to(tl.int64), tl.maximum(e - b, 0)
    else:
        return n.to(tl.int64) * T, T


@triton.jit
def load_tile(p, off, valid, stride: tl.constexpr, col, D: tl.constexpr, EVEN: tl.constexpr):
    """[rows, cols] tile of a row-major matrix; p is the pointer of row base, `off` int32 rows."""
    ptr = p + off[:, None] * stride + col[None, :]
    if EVEN:
        return tl.load(ptr, mask=valid[:, None], other=0.0)
    else:
        return tl.load(ptr, mask=valid[:, None] & (col < D)[None, :], other=0.0)


@triton.jit
def load_mat(p, r, c, R: tl.constexpr, C: tl.constexpr, EVEN: tl.constexpr):
    """[r, c] block of a dense [R, C] matrix."""
    ptr = p + r[:, None] * C + c[None, :]
    if EVEN:
        return tl.load(ptr)
    else:
        return tl.load(ptr, mask=(r < R)[:, None] & (c < C)[None, :], other=0.0)


@triton.jit
def mm(a, b, acc, PREC: tl.constexpr):
    if PREC == "half":
        return tl.dot(a, b, acc)
    else:
        return tl.dot(a, b, acc, input_precision=PREC)


@triton.jit
def mm0(a, b, PREC: tl.constexpr):
    if PREC == "half":
        return tl.dot(a, b)
    else:
        return tl.dot(a, b, input_precision=PREC)


# ---------------------------------------------------------------- packed sequences -> chunk slots
@triton.jit
def slots_kernel(cu, start, owner, T, N, SLOTS, C: tl.constexpr, BN: tl.constexpr):
    """start[n] = first chunk slot of sequence n; owner[slot] = n or -1. One program per sequence."""
    n = tl.program_id(0)
    base = 0
    for i in range(0, n, BN):
        s = i + tl.arange(0, BN)
        b = tl.minimum(tl.maximum(tl.load(cu + s, mask=s < n, other=0).to(tl.int32), 0), T)
        e = tl.minimum(tl.maximum(tl.load(cu + s + 1, mask=s < n, other=0).to(tl.int32), 0), T)
        base += tl.sum(tl.where(s < n, (tl.maximum(e - b, 0) + C - 1) // C, 0))
    b = tl.minimum(tl.maximum(tl.load(cu + n).to(tl.int32), 0), T)
    e = tl.minimum(tl.maximum(tl.load(cu + n + 1).to(tl.int32), 0), T)
    count = (tl.maximum(e - b, 0) + C - 1) // C
    base = tl.minimum(base, SLOTS)
    tl.store(start + n, base)
    end = tl.minimum(base + count, SLOTS)
    for i in range(0, count, BN):
        s = base + i + tl.arange(0, BN)
        tl.store(owner + s, tl.zeros([BN], tl.int32) + n, mask=s < end)
    if n == N - 1:
        for i in range(0, SLOTS - end, BN):
            s = end + i + tl.arange(0, BN)
            tl.store(owner + s, tl.zeros([BN], tl.int32) - 1, mask=s < SLOTS)


# ---------------------------------------------------------------- where a tile lies
@triton.jit
def locate(tile, cu, start, owner, T, NT, R: tl.constexpr, VARLEN: tl.constexpr):
    """tile = slot * R + r -> (first row, length, slot, position of the tile); length 0 if unused."""
    slot = tile // R
    if VARLEN:
        n = tl.load(owner + slot)
        live = n >= 0
        n = tl.maximum(n, 0)
        bos, length = span(cu, n, T, VARLEN)
        length = tl.where(live, length, 0)
        c = slot - tl.load(start + n)
    else:
        bos, length = span(cu, slot // NT, T, VARLEN)
        c = slot % NT
    return bos, length, slot, (c * R + tile % R) * 64


@triton.jit
def tile_of(p, d, off, valid, r0, c0, stride: tl.constexpr, col, D: tl.constexpr, EVEN: tl.constexpr,
            DESC: tl.constexpr):
    """A [64, cols] tile by pointer p or by descriptor d at row r0, column c0 (int32)."""
    if DESC:
        return d.load([r0, c0])
    else:
        return load_tile(p, off, valid, stride, col, D, EVEN)


@triton.jit
def mat_of(p, d, r, c, r0, c0, R: tl.constexpr, C: tl.constexpr, EVEN: tl.constexpr, DESC: tl.constexpr):
    if DESC:
        return d.load([r0, c0])
    else:
        return load_mat(p, r, c, R, C, EVEN)



# planes of `rows` [PLANES, tiles, H, 64] fp32
F_READ = tl.constexpr(0)    # e^G rk: read of the erase
F_QUERY = tl.constexpr(1)   # e^G rq scale: read of the output
F_WRITE = tl.constexpr(2)   # e^{suffix} rk beta
BETA = tl.constexpr(3)
CUM = tl.constexpr(4)       # prefix sums of the log2 decay, and their low parts
CUM_LO = tl.constexpr(5)
RK = tl.constexpr(6)
RQ = tl.constexpr(7)


@triton.jit
def inverse(N, i, INV: tl.constexpr):
    """(I + N)^-1 of a strictly lower [64, 64] matrix by merging blocks of 1, 2, 4, .., 32 rows."""
    x = i[:, None] ^ i[None, :]
    X = tl.where(x == 0, 1.0, 0.0) - tl.where(x == 1, N, 0.0)
    for lev in tl.static_range(1, 6):
        Nl = tl.where((x >> lev) == 1, N, 0.0)
        X -= tl.dot(tl.dot(X, Nl, input_precision=INV), X, input_precision=INV)
    return X


# ---------------------------------------------------------------- row factors, scores, inverse
@triton.jit
def prepare_kernel(
    q, k, g, beta, qd, kd, tw, bm, rows, et, cu, start, owner, T, NT, PLANE, scale,
    H: tl.constexpr, G: tl.constexpr, K: tl.constexpr, BK: tl.constexpr,
    GATE: tl.constexpr, NORM: tl.constexpr, REVERSE: tl.constexpr, VARLEN: tl.constexpr, WANT_B: tl.constexpr,
    PREC: tl.constexpr, INV: tl.constexpr, DESC: tl.constexpr,
):
    """Tw = (I + M diag(beta))^-1, B = A Tw, and the row factors of one tile of 64 rows of one head."""
    NK: tl.constexpr = (K + BK - 1) // BK
    EK: tl.constexpr = K % BK == 0
    SGN: tl.constexpr = -1 if REVERSE else 1
    EXACT: tl.constexpr = PREC != "half"
    h = tl.program_id(0) % H
    tile = tl.program_id(0) // H
    bos, length, slot, t0 = locate(tile, cu, start, owner, T, NT, 1, VARLEN)
    if t0 >= length:
        return
    org = bos
    if REVERSE:
        org = bos + length - 1
    hk = h // (H // G)
    q += (org * G + hk) * K
    k += (org * G + hk) * K
    i = tl.arange(0, 64)
    valid = t0 + i < length
    row = SGN * (t0 + i)
    r_k = tl.arange(0, BK)
    r0 = (bos + t0).to(tl.int32)
    # [role beta]
    b = tl.load(beta + org * H + h + row * H, mask=valid, other=0.0).to(tl.float32)
    # [role g]
    if GATE == 0:
        ch = tl.zeros([64], tl.float32)
        cl = ch
        th = 0.0
        tlo = 0.0
    else:
        if GATE == 2:
            x = tl.load(g + org * H + h + row * H, mask=valid, other=0.0).to(tl.float32)
        else:
            x = tl.where(valid, tl.load(g + h).to(tl.float32), 0.0)
        hi, lo = gate_split(x * LOG2E)
        ch = tl.cumsum(hi, 0)
        cl = tl.cumsum(lo, 0)
        th = tl.sum(hi)
        tlo = tl.sum(lo)

    kt = tile_of(k, kd, row, valid, r0, hk * K, G * K, r_k, K, EK, DESC)
    M = mm0(kt, tl.trans(kt), PREC)
    if WANT_B or NORM:
        qt = tile_of(q, qd, row, valid, r0, hk * K, G * K, r_k, K, EK, DESC)
    if WANT_B:
        A = mm0(qt, tl.trans(kt), PREC)
    if NORM:
        nk = tl.sum(kt.to(tl.float32) * kt.to(tl.float32), 1)
        nq = tl.sum(qt.to(tl.float32) * qt.to(tl.float32), 1)
    for jb in tl.static_range(1, NK):
        c_k = jb * BK + r_k
        kt = tile_of(k, kd, row, valid, r0, hk * K + jb * BK, G * K, c_k, K, EK, DESC)
        M = mm(kt, tl.trans(kt), M, PREC)
        if WANT_B or NORM:
            qt = tile_of(q, qd, row, valid, r0, hk * K + jb * BK, G * K, c_k, K, EK, DESC)
        if WANT_B:
            A = mm(qt, tl.trans(kt), A, PREC)
        if NORM:
            nk += tl.sum(kt.to(tl.float32) * kt.to(tl.float32), 1)
            nq += tl.sum(qt.to(tl.float32) * qt.to(tl.float32), 1)

    base = (tile.to(tl.int64) * H + h) * 64
    p = rows + base + i
    eg = tl.exp2(ch + cl)
    es = tl.exp2((th - ch) + (tlo - cl))
    fr = eg
    fq = eg * scale
    fw = es * b
    if NORM:
        rk = 1.0 / tl.sqrt(nk + 1e-6)
        rq = 1.0 / tl.sqrt(nq + 1e-6)
        fr *= rk
        fq *= rq
        fw *= rk
        tl.store(p + RK * PLANE, rk)
        tl.store(p + RQ * PLANE, rq)
    tl.store(p + F_READ * PLANE, fr)
    tl.store(p + F_QUERY * PLANE, fq)
    tl.store(p + F_WRITE * PLANE, fw)
    tl.store(p + BETA * PLANE, b)
    tl.store(et + tile * H + h, tl.exp2(th + tlo))
    if GATE:
        if EXACT:
            tl.store(p + CUM * PLANE, ch)
            tl.store(p + CUM_LO * PLANE, cl)
        else:
            tl.store(p + CUM * PLANE, ch + cl)

    causal = i[:, None] >= i[None, :]
    if GATE:
        e = (ch[:, None] - ch[None, :]) + (cl[:, None] - cl[None, :])
        D = tl.exp2(tl.where(causal, e, -300.0))
    else:
        D = tl.where(causal, 1.0, 0.0)
    col = b
    if NORM:
        col = b * rk
    D = D * col[None, :]
    off = base * 64 + i[:, None] * 64 + i[None, :]
    N = tl.where(i[:, None] > i[None, :], M * D, 0.0)
    if NORM:
        N = N * rk[:, None]
    X = inverse(N, i, INV)
    tl.store(tw + off, X.to(tw.dtype.element_ty))
    if WANT_B:
        # A Tw in full precision: for alike keys its terms cancel, and rounded ones would not
        A = A * D * scale
        if NORM:
            A = A * rq[:, None]
        tl.store(bm + off, tl.dot(A, X, input_precision=INV).to(bm.dtype.element_ty))


# ---------------------------------------------------------------- serial passes
@triton.jit
def walk_states(
    q, k, v, tw, bm, qd, kd, vd, twd, bmd, rows, et, h0, ht, hs, w, o, cu, start, pid, T, NT, SLOTS, PLANE,
    H: tl.constexpr, G: tl.constexpr, K: tl.constexpr, V: tl.constexpr,
    BK: tl.constexpr, BV: tl.constexpr, NS: tl.constexpr,
    REVERSE: tl.constexpr, VARLEN: tl.constexpr, HAS_H0: tl.constexpr, HAS_HT: tl.constexpr,
    READ: tl.constexpr, SAVE: tl.constexpr, PREC: tl.constexpr, DESC: tl.constexpr,
):
    """All K rows, BV columns of the state of one (sequence, head), 64 rows per step.

    READ: writes o. SAVE: writes the state before each tile to hs and W to w.
    """
    NV: tl.constexpr = (V + BV - 1) // BV
    EK: tl.constexpr = K % BK == 0
    EV: tl.constexpr = V % BV == 0
    SGN: tl.constexpr = -1 if REVERSE else 1
    iv = pid % NV
    h = (pid // NV) % H
    n = pid // (NV * H)
    bos, length = span(cu, n, T, VARLEN)
    if VARLEN:
        slot = tl.load(start + n)
    else:
        slot = n * NT
    hk = h // (H // G)
    i = tl.arange(0, 64)
    r_k = tl.arange(0, BK)
    r_v = iv * BV + tl.arange(0, BV)
    off_s = r_k[:, None] * V + r_v[None, :]
    m_s = (r_k < K)[:, None] & (r_v < V)[None, :]
    base_s = (n.to(tl.int64) * H + h) * (K * V)
    S = tl.zeros([BK, BV], tl.float32)
    if HAS_H0:
        S += tl.load(h0 + base_s + off_s, mask=m_s, other=0.0).to(tl.float32)
    org = bos
    if REVERSE:
        org = bos + length - 1
    q += (org * G + hk) * K
    k += (org * G + hk) * K
    v += (org * H + h) * V
    w += (org * H + h) * V
    o += (org * H + h) * V
    first = slot.to(tl.int64) * H + h
    hs += first * (K * V)
    tw += first * 4096
    bm += first * 4096
    rows += first * 64
    et += first
    rb = bos.to(tl.int32)
    nt = tl.minimum((length + 63) // 64, SLOTS - slot)
    for t in tl.range(0, nt, num_stages=NS, disable_licm=True):
        pos = t * 64 + i
        valid = pos < length
        row = SGN * pos
        step = t * H
        f_read = tl.load(rows + step * 64 + i)
        f_write = tl.load(rows + F_WRITE * PLANE + step * 64 + i)
        e = tl.load(et + step)
        # [role k]
        kt = tile_of(k, kd, row, valid, rb + t * 64, hk * K, G * K, r_k, K, EK, DESC)
        Sb = S.to(kt.dtype)
        if SAVE:
            tl.store(hs + step.to(tl.int64) * (K * V) + off_s, Sb, mask=m_s)
        x = mm0(kt, Sb, PREC)
        # [role v]
        vt = tile_of(v, vd, row, valid, rb + t * 64, h * V + iv * BV, H * V, r_v, V, EV, DESC)
        z = (vt.to(tl.float32) - x * f_read[:, None]).to(kt.dtype)
        twt = mat_of(tw + step.to(tl.int64) * 4096, twd, i, i, (slot * H + h + step) * 64, 0, 64, 64, True, DESC)
        W = mm0(twt, z, PREC)
        if SAVE:
            if EV:
                tl.store(w + row[:, None] * (H * V) + r_v[None, :], W.to(kt.dtype), mask=valid[:, None])
            else:
                tl.store(w + row[:, None] * (H * V) + r_v[None, :], W.to(kt.dtype),
                         mask=valid[:, None] & (r_v < V)[None, :])
        if READ:
            f_query = tl.load(rows + F_QUERY * PLANE + step * 64 + i)
            # [role q]
            qt = tile_of(q, qd, row, valid, rb + t * 64, hk * K, G * K, r_k, K, EK, DESC)
            y = mm0(qt, Sb, PREC) * f_query[:, None]
            bmt = mat_of(bm + step.to(tl.int64) * 4096, bmd, i, i, (slot * H + h + step) * 64, 0, 64, 64, True, DESC)
            y = mm(bmt, z, y, PREC)
            # [epilogue]
            if EV:
                tl.store(o + row[:, None] * (H * V) + r_v[None, :], y.to(kt.dtype), mask=valid[:, None])
            else:
                tl.store(o + row[:, None] * (H * V) + r_v[None, :], y.to(kt.dtype),
                         mask=valid[:, None] & (r_v < V)[None, :])
        S = mm(tl.trans(kt), (W * f_write[:, None]).to(kt.dtype), S * e, PREC)
    if HAS_HT:
        tl.store(ht + base_s + off_s, S, mask=m_s)


@triton.jit
def walk_adjoint(
    q, k, do, tw, bm, qd, kd, dod, twd, bmd, rows, et, dht, dh0, dhs, dv, cu, start, pid, T, NT, SLOTS, PLANE,
    H: tl.constexpr, G: tl.constexpr, K: tl.constexpr, V: tl.constexpr,
    BK: tl.constexpr, BV: tl.constexpr, NS: tl.constexpr,
    REVERSE: tl.constexpr, VARLEN: tl.constexpr, HAS_DHT: tl.constexpr, HAS_DH0: tl.constexpr,
    PREC: tl.constexpr, DESC: tl.constexpr,
):
    """Walks back: stores dv and, per tile, the gradient of the state after it."""
    NV: tl.constexpr = (V + BV - 1) // BV
    EK: tl.constexpr = K % BK == 0
    EV: tl.constexpr = V % BV == 0
    SGN: tl.constexpr = -1 if REVERSE else 1
    iv = pid % NV
    h = (pid // NV) % H
    n = pid // (NV * H)
    bos, length = span(cu, n, T, VARLEN)
    if VARLEN:
        slot = tl.load(start + n)
    else:
        slot = n * NT
    hk = h // (H // G)
    i = tl.arange(0, 64)
    r_k = tl.arange(0, BK)
    r_v = iv * BV + tl.arange(0, BV)
    off_s = r_k[:, None] * V + r_v[None, :]
    m_s = (r_k < K)[:, None] & (r_v < V)[None, :]
    base_s = (n.to(tl.int64) * H + h) * (K * V)
    S = tl.zeros([BK, BV], tl.float32)
    if HAS_DHT:
        S += tl.load(dht + base_s + off_s, mask=m_s, other=0.0).to(tl.float32)
    org = bos
    if REVERSE:
        org = bos + length - 1
    q += (org * G + hk) * K
    k += (org * G + hk) * K
    do += (org * H + h) * V
    dv += (org * H + h) * V
    first = slot.to(tl.int64) * H + h
    dhs += first * (K * V)
    tw += first * 4096
    bm += first * 4096
    rows += first * 64
    et += first
    rb = bos.to(tl.int32)
    nt = tl.minimum((length + 63) // 64, SLOTS - slot)
    for it in tl.range(0, nt, num_stages=NS, disable_licm=True):
        t = nt - 1 - it
        pos = t * 64 + i
        valid = pos < length
        row = SGN * pos
        step = t * H
        f_read = tl.load(rows + step * 64 + i)
        f_query = tl.load(rows + F_QUERY * PLANE + step * 64 + i)
        f_write = tl.load(rows + F_WRITE * PLANE + step * 64 + i)
        e = tl.load(et + step)
        kt = tile_of(k, kd, row, valid, rb + t * 64, hk * K, G * K, r_k, K, EK, DESC)
        Sb = S.to(kt.dtype)
        tl.store(dhs + step.to(tl.int64) * (K * V) + off_s, Sb, mask=m_s)
        x = mm0(kt, Sb, PREC) * f_write[:, None]
        dot_ = tile_of(do, dod, row, valid, rb + t * 64, h * V + iv * BV, H * V, r_v, V, EV, DESC)
        bmt = mat_of(bm + step.to(tl.int64) * 4096, bmd, i, i, (slot * H + h + step) * 64, 0, 64, 64, True, DESC)
        y = mm0(tl.trans(bmt), dot_, PREC)
        twt = mat_of(tw + step.to(tl.int64) * 4096, twd, i, i, (slot * H + h + step) * 64, 0, 64, 64, True, DESC)
        y = mm(tl.trans(twt), x.to(kt.dtype), y, PREC)
        # [adjoint of role v]
        if EV:
            tl.store(dv + row[:, None] * (H * V) + r_v[None, :], y.to(kt.dtype), mask=valid[:, None])
        else:
            tl.store(dv + row[:, None] * (H * V) + r_v[None, :], y.to(kt.dtype),
                     mask=valid[:, None] & (r_v < V)[None, :])
        qt = tile_of(q, qd, row, valid, rb + t * 64, hk * K, G * K, r_k, K, EK, DESC)
        S = mm(tl.trans(qt), (dot_.to(tl.float32) * f_query[:, None]).to(kt.dtype), S * e, PREC)
        S = mm(tl.trans(kt), (y * -f_read[:, None]).to(kt.dtype), S, PREC)
    if HAS_DH0:
        tl.store(dh0 + base_s + off_s, S, mask=m_s)


@triton.jit
def forward_kernel(
    q, k, v, tw, bm, qd, kd, vd, twd, bmd, rows, et, h0, ht, hs, w, o, cu, start, T, NT, SLOTS, PLANE,
    H: tl.constexpr, G: tl.constexpr, K: tl.constexpr, V: tl.constexpr,
    BK: tl.constexpr, BV: tl.constexpr, NS: tl.constexpr,
    REVERSE: tl.constexpr, VARLEN: tl.constexpr, HAS_H0: tl.constexpr, HAS_HT: tl.constexpr,
    READ: tl.constexpr, SAVE: tl.constexpr, PREC: tl.constexpr, DESC: tl.constexpr,
):
    walk_states(q, k, v, tw, bm, qd, kd, vd, twd, bmd, rows, et, h0, ht, hs, w, o, cu, start, tl.program_id(0),
                T, NT, SLOTS, PLANE, H, G, K, V, BK, BV, NS, REVERSE, VARLEN, HAS_H0, HAS_HT, READ, SAVE, PREC, DESC)


@triton.jit
def adjoint_kernel(
    q, k, do, tw, bm, qd, kd, dod, twd, bmd, rows, et, dht, dh0, dhs, dv, cu, start, T, NT, SLOTS, PLANE,
    H: tl.constexpr, G: tl.constexpr, K: tl.constexpr, V: tl.constexpr,
    BK: tl.constexpr, BV: tl.constexpr, NS: tl.constexpr,
    REVERSE: tl.constexpr, VARLEN: tl.constexpr, HAS_DHT: tl.constexpr, HAS_DH0: tl.constexpr,
    PREC: tl.constexpr, DESC: tl.constexpr,
):
    walk_adjoint(q, k, do, tw, bm, qd, kd, dod, twd, bmd, rows, et, dht, dh0, dhs, dv, cu, start, tl.program_id(0),
                 T, NT, SLOTS, PLANE, H, G, K, V, BK, BV, NS, REVERSE, VARLEN, HAS_DHT, HAS_DH0, PREC, DESC)


@triton.jit
def passes_kernel(
    q, k, v, do, tw, bm, qd, kd, vd, dod, twd, bmd, rows, et, h0, dht, dh0, hs, dhs, w, dv, cu, start,
    T, NT, SLOTS, PLANE,
    H: tl.constexpr, G: tl.constexpr, K: tl.constexpr, V: tl.constexpr,
    BK: tl.constexpr, BV: tl.constexpr, NS: tl.constexpr,
    REVERSE: tl.constexpr, VARLEN: tl.constexpr,
    HAS_H0: tl.constexpr, HAS_DHT: tl.constexpr, HAS_DH0: tl.constexpr,
    PREC: tl.constexpr, DESC: tl.constexpr,
):
    """Backward: even programs recompute states and W, odd ones walk the adjoint back; both are independent."""
    pid = tl.program_id(0)
    if pid % 2 == 0:
        walk_states(q, k, v, tw, bm, qd, kd, vd, twd, bmd, rows, et, h0, h0, hs, w, w, cu, start, pid // 2,
                    T, NT, SLOTS, PLANE, H, G, K, V, BK, BV, NS, REVERSE, VARLEN, HAS_H0, False, False, True, PREC, DESC)
    else:
        walk_adjoint(q, k, do, tw, bm, qd, kd, dod, twd, bmd, rows, et, dht, dh0, dhs, dv, cu, start, pid // 2,
                     T, NT, SLOTS, PLANE, H, G, K, V, BK, BV, NS, REVERSE, VARLEN, HAS_DHT, HAS_DH0, PREC, DESC)


@triton.jit
def output_kernel(
    q, k, v, bm, hs, qd, kd, vd, bmd, hsd, rows, o, cu, start, owner, T, NT, PLANE,
    H: tl.constexpr, G: tl.constexpr, K: tl.constexpr, V: tl.constexpr,
    BK: tl.constexpr, BV: tl.constexpr,
    REVERSE: tl.constexpr, VARLEN: tl.constexpr, PREC: tl.constexpr, DESC: tl.constexpr,
):
    """o = e^G q S0 + B (v - e^G k S0) of one tile: the parallel half of the two-pass forward."""
    NK: tl.constexpr = (K + BK - 1) // BK
    NV: tl.constexpr = (V + BV - 1) // BV
    EK: tl.constexpr = K % BK == 0
    EV: tl.constexpr = V % BV == 0
    SGN: tl.constexpr = -1 if REVERSE else 1
    h = tl.program_id(0) % H
    iv = (tl.program_id(0) // H) % NV
    tile = tl.program_id(0) // (H * NV)
    bos, length, slot, t0 = locate(tile, cu, start, owner, T, NT, 1, VARLEN)
    if t0 >= length:
        return
    org = bos
    if REVERSE:
        org = bos + length - 1
    hk = h // (H // G)
    q += (org * G + hk) * K
    k += (org * G + hk) * K
    v += (org * H + h) * V
    o += (org * H + h) * V
    base = tile.to(tl.int64) * H + h
    hs += base * (K * V)
    r0 = (bos + t0).to(tl.int32)
    i = tl.arange(0, 64)
    valid = t0 + i < length
    row = SGN * (t0 + i)
    r_k = tl.arange(0, BK)
    r_v = iv * BV + tl.arange(0, BV)
    s0 = (tile * H + h) * K
    hm = mat_of(hs, hsd, r_k, r_v, s0, iv * BV, K, V, EK and EV, DESC)
    x = mm0(tile_of(k, kd, row, valid, r0, hk * K, G * K, r_k, K, EK, DESC), hm, PREC)
    y = mm0(tile_of(q, qd, row, valid, r0, hk * K, G * K, r_k, K, EK, DESC), hm, PREC)
    for jb in tl.static_range(1, NK):
        c_k = jb * BK + r_k
        hm = mat_of(hs, hsd, c_k, r_v, s0 + jb * BK, iv * BV, K, V, EK and EV, DESC)
        x = mm(tile_of(k, kd, row, valid, r0, hk * K + jb * BK, G * K, c_k, K, EK, DESC), hm, x, PREC)
        y = mm(tile_of(q, qd, row, valid, r0, hk * K + jb * BK, G * K, c_k, K, EK, DESC), hm, y, PREC)
    y = y * tl.load(rows + F_QUERY * PLANE + base * 64 + i)[:, None]
    vt = tile_of(v, vd, row, valid, r0, h * V + iv * BV, H * V, r_v, V, EV, DESC)
    z = vt.to(tl.float32) - x * tl.load(rows + base * 64 + i)[:, None]
    bmt = mat_of(bm + base * 4096, bmd, i, i, (tile * H + h) * 64, 0, 64, 64, True, DESC)
    y = mm(bmt, z.to(vt.dtype), y, PREC)
    # [epilogue]
    tl.store(o + row[:, None] * (H * V) + r_v[None, :], y.to(o.dtype.element_ty),
             mask=valid[:, None] & (r_v < V)[None, :])


# ---------------------------------------------------------------- the parallel rest of the backward
@triton.jit
def rest_kernel(
    q, k, w, do, dv, hs, dhs, qd, kd, wd, dod, dvd, hsd, dhsd, rows, et, dq, dk, st, cu, start, owner,
    T, NT, PLANE, scale,
    H: tl.constexpr, G: tl.constexpr, K: tl.constexpr, V: tl.constexpr,
    BK: tl.constexpr, BV: tl.constexpr,
    GATE: tl.constexpr, NORM: tl.constexpr, REVERSE: tl.constexpr, VARLEN: tl.constexpr,
    PREC: tl.constexpr, DESC: tl.constexpr, KEEP: tl.constexpr, PART: tl.constexpr,
):
    """dq, dk per head of v, and the row sums of dbeta and dg. One K block per program.

    PART 0: all; 1: dk only; 2: dq only (its row sums then go to their own plane).
    """
    NK: tl.constexpr = (K + BK - 1) // BK
    NV: tl.constexpr = (V + BV - 1) // BV
    EK: tl.constexpr = K % BK == 0
    EV: tl.constexpr = V % BV == 0
    SGN: tl.constexpr = -1 if REVERSE else 1
    EXACT: tl.constexpr = PREC != "half"
    h = tl.program_id(0) % H
    ib = (tl.program_id(0) // H) % NK
    tile = tl.program_id(0) // (H * NK)
    bos, length, slot, t0 = locate(tile, cu, start, owner, T, NT, 1, VARLEN)
    if t0 >= length:
        return
    org = bos
    if REVERSE:
        org = bos + length - 1
    hk = h // (H // G)
    q += (org * G + hk) * K
    k += (org * G + hk) * K
    w += (org * H + h) * V
    do += (org * H + h) * V
    dv += (org * H + h) * V
    dq += (org * H + h) * K
    dk += (org * H + h) * K
    base = tile.to(tl.int64) * H + h
    hs += base * (K * V)
    dhs += base * (K * V)
    rows += base * 64
    st += base * 64
    r0 = (bos + t0).to(tl.int32)
    s0 = (tile * H + h) * K
    i = tl.arange(0, 64)
    valid = t0 + i < length
    row = SGN * (t0 + i)
    r_k = tl.arange(0, BK)
    r_v = tl.arange(0, BV)
    b_k = ib * BK + r_k
    # Row factors and the tiles that row sums need are read again in each phase: a copy kept from the phase
    # before would hold 16 to 32 registers all along. (The stores in between keep the compiler from merging them.)

    if PART != 2:
        # -- transposed scores, row j (written), column i (read)
        kt = tile_of(k, kd, row, valid, r0, hk * K, G * K, r_k, K, EK, DESC)
        wt = tile_of(w, wd, row, valid, r0, h * V, H * V, r_v, V, EV, DESC)
        ot = tile_of(do, dod, row, valid, r0, h * V, H * V, r_v, V, EV, DESC)
        qt = tile_of(q, qd, row, valid, r0, hk * K, G * K, r_k, K, EK, DESC)
        vt = tile_of(dv, dvd, row, valid, r0, h * V, H * V, r_v, V, EV, DESC)
        b = tl.load(rows + BETA * PLANE + i)
        bk = b
        if NORM:
            rk = tl.load(rows + RK * PLANE + i)
            rq = tl.load(rows + RQ * PLANE + i)
            bk = b * rk
        if GATE:
            ch = tl.load(rows + CUM * PLANE + i)
            th = tl.load(rows + CUM * PLANE + 63)
            et_ = ch[None, :] - ch[:, None]
            tail = th - ch
            if EXACT:
                cl = tl.load(rows + CUM_LO * PLANE + i)
                et_ += cl[None, :] - cl[:, None]
                tail += tl.load(rows + CUM_LO * PLANE + 63) - cl
            DT = tl.exp2(tl.where(i[:, None] <= i[None, :], et_, -300.0))
        else:
            DT = tl.where(i[:, None] <= i[None, :], 1.0, 0.0)
        dAT = mm0(wt, tl.trans(ot), PREC)
        for jb in tl.static_range(1, NV):
            c_v = jb * BV + r_v
            dAT = mm(tile_of(w, wd, row, valid, r0, h * V + jb * BV, H * V, c_v, V, EV, DESC),
                     tl.trans(tile_of(do, dod, row, valid, r0, h * V + jb * BV, H * V, c_v, V, EV, DESC)), dAT, PREC)
        if NORM:
            dAT = dAT * DT * (rq * scale)[None, :]
        else:
            dAT = dAT * DT * scale
        AT = mm0(kt, tl.trans(qt), PREC)
        for jb in tl.static_range(1, NK):
            c_k = jb * BK + r_k
            AT = mm(tile_of(k, kd, row, valid, r0, hk * K + jb * BK, G * K, c_k, K, EK, DESC),
                    tl.trans(tile_of(q, qd, row, valid, r0, hk * K + jb * BK, G * K, c_k, K, EK, DESC)), AT, PREC)
        PT = AT * dAT
        dATb = (dAT * bk[:, None]).to(kt.dtype)
        dBT = mm0(wt, tl.trans(vt), PREC)
        for jb in tl.static_range(1, NV):
            c_v = jb * BV + r_v
            dBT = mm(tile_of(w, wd, row, valid, r0, h * V + jb * BV, H * V, c_v, V, EV, DESC),
                     tl.trans(tile_of(dv, dvd, row, valid, r0, h * V + jb * BV, H * V, c_v, V, EV, DESC)), dBT, PREC)
        strict = i[:, None] < i[None, :]
        dBT = tl.where(strict, dBT * DT, 0.0)
        if NORM:
            dBT = dBT * rk[None, :]
        MT = mm0(kt, tl.trans(kt), PREC)
        for jb in tl.static_range(1, NK):
            c_k = jb * BK + r_k
            kj = tile_of(k, kd, row, valid, r0, hk * K + jb * BK, G * K, c_k, K, EK, DESC)
            MT = mm(kj, tl.trans(kj), MT, PREC)
        PT -= MT * dBT
        dBTb = (dBT * -bk[:, None]).to(kt.dtype)
        db = tl.sum(PT, 1)
        if NORM:
            db *= rk
        if ib > 0:
            db = tl.zeros([64], tl.float32)
        if GATE:
            if ib == 0:
                PT = tl.where(strict, PT * bk[:, None], 0.0)
                tl.store(st + (4 * NK) * PLANE + i, tl.sum(PT, 0) - tl.sum(PT, 1))

        # -- dk, what is written: beta e^{suffix} W dS^T + dA^T q + dB^T k
        z = mm0(wt, tl.trans(mat_of(dhs, dhsd, b_k, r_v, s0 + ib * BK, 0, K, V, EK and EV, DESC)), PREC)
        for jb in tl.static_range(1, NV):
            c_v = jb * BV + r_v
            z = mm(tile_of(w, wd, row, valid, r0, h * V + jb * BV, H * V, c_v, V, EV, DESC),
                   tl.trans(mat_of(dhs, dhsd, b_k, c_v, s0 + ib * BK, jb * BV, K, V, EK and EV, DESC)), z, PREC)
        if GATE:
            es = tl.exp2(tail)
            if NORM:
                es *= rk
            z = z * es[:, None]
        else:
            if NORM:
                z = z * rk[:, None]
        c = tl.sum(z * tile_of(k, kd, row, valid, r0, hk * K + ib * BK, G * K, b_k, K, EK, DESC).to(tl.float32), 1)
        # [adjoint of role beta]
        tl.store(st + (NK + ib) * PLANE + i, db + c)
        if GATE:
            tl.store(st + (2 * NK + ib) * PLANE + i, c * b)
        if KEEP:
            kb = kt
            qb = qt
        else:
            kb = tile_of(k, kd, row, valid, r0, hk * K + ib * BK, G * K, b_k, K, EK, DESC)
            qb = tile_of(q, qd, row, valid, r0, hk * K + ib * BK, G * K, b_k, K, EK, DESC)
        z = z * b[:, None]
        z = mm(dATb, qb, z, PREC)
        z = mm(dBTb, kb, z, PREC)

        # -- dk, what is read: dB k - e^G dv S0^T
        b2 = tl.load(rows + BETA * PLANE + i)
        if NORM:
            rk2 = tl.load(rows + RK * PLANE + i)
            b2 *= rk2
        dB = mm0(vt, tl.trans(wt), PREC)
        for jb in tl.static_range(1, NV):
            c_v = jb * BV + r_v
            dB = mm(tile_of(dv, dvd, row, valid, r0, h * V + jb * BV, H * V, c_v, V, EV, DESC),
                    tl.trans(tile_of(w, wd, row, valid, r0, h * V + jb * BV, H * V, c_v, V, EV, DESC)), dB, PREC)
        if GATE:
            ch2 = tl.load(rows + CUM * PLANE + i)
            e2 = ch2[:, None] - ch2[None, :]
            if EXACT:
                cl2 = tl.load(rows + CUM_LO * PLANE + i)
                e2 += cl2[:, None] - cl2[None, :]
            dB = dB * tl.exp2(tl.where(i[:, None] > i[None, :], e2, -300.0)) * -b2[None, :]
        else:
            dB = tl.where(i[:, None] > i[None, :], dB * -b2[None, :], 0.0)
        if NORM:
            dB = dB * rk2[:, None]
        z = mm(dB.to(kb.dtype), kb, z, PREC)
        f_read = tl.load(rows + F_READ * PLANE + i)
        hm = mat_of(hs, hsd, b_k, r_v, s0 + ib * BK, 0, K, V, EK and EV, DESC)
        if GATE:
            y = mm0(vt, tl.trans(hm), PREC)
            for jb in tl.static_range(1, NV):
                c_v = jb * BV + r_v
                y = mm(tile_of(dv, dvd, row, valid, r0, h * V + jb * BV, H * V, c_v, V, EV, DESC),
                       tl.trans(mat_of(hs, hsd, b_k, c_v, s0 + ib * BK, jb * BV, K, V, EK and EV, DESC)), y, PREC)
            y = y * -f_read[:, None]
            kr = tile_of(k, kd, row, valid, r0, hk * K + ib * BK, G * K, b_k, K, EK, DESC).to(tl.float32)
            tl.store(st + (4 * NK + 1 + ib) * PLANE + i, tl.sum(y * kr, 1))
            z += y
        else:
            # one accumulator: no row sum of this part is needed, and its row factor is rk
            if NORM:
                z = z * (-1.0 / f_read)[:, None]
            else:
                z = -z
            z = mm(vt, tl.trans(hm), z, PREC)
            for jb in tl.static_range(1, NV):
                c_v = jb * BV + r_v
                z = mm(tile_of(dv, dvd, row, valid, r0, h * V + jb * BV, H * V, c_v, V, EV, DESC),
                       tl.trans(mat_of(hs, hsd, b_k, c_v, s0 + ib * BK, jb * BV, K, V, EK and EV, DESC)), z, PREC)
            z = z * -f_read[:, None]
        if NORM and NK == 1:
            kn = tile_of(k, kd, row, valid, r0, hk * K + ib * BK, G * K, b_k, K, EK, DESC)
            z -= kn.to(tl.float32) * (tl.sum(z * kn.to(tl.float32), 1) * rk2 * rk2)[:, None]
        # [adjoint of role k]
        tl.store(dk + row[:, None] * (H * K) + b_k[None, :], z.to(dk.dtype.element_ty),
                 mask=valid[:, None] & (b_k < K)[None, :])

    if PART != 1:
        # -- dq = e^G do S0^T + dA k
        if KEEP and PART == 0:
            wt3 = wt
            ot3 = ot
            hm3 = hm
            kb3 = kb
        else:
            wt3 = tile_of(w, wd, row, valid, r0, h * V, H * V, r_v, V, EV, DESC)
            ot3 = tile_of(do, dod, row, valid, r0, h * V, H * V, r_v, V, EV, DESC)
            hm3 = mat_of(hs, hsd, b_k, r_v, s0 + ib * BK, 0, K, V, EK and EV, DESC)
            kb3 = tile_of(k, kd, row, valid, r0, hk * K + ib * BK, G * K, b_k, K, EK, DESC)
        b3 = tl.load(rows + BETA * PLANE + i) * scale
        if NORM:
            b3 *= tl.load(rows + RK * PLANE + i)
            rq3 = tl.load(rows + RQ * PLANE + i)
        dA = mm0(ot3, tl.trans(wt3), PREC)
        for jb in tl.static_range(1, NV):
            c_v = jb * BV + r_v
            dA = mm(tile_of(do, dod, row, valid, r0, h * V + jb * BV, H * V, c_v, V, EV, DESC),
                    tl.trans(tile_of(w, wd, row, valid, r0, h * V + jb * BV, H * V, c_v, V, EV, DESC)), dA, PREC)
        if GATE:
            ch3 = tl.load(rows + CUM * PLANE + i)
            e3 = ch3[:, None] - ch3[None, :]
            if EXACT:
                cl3 = tl.load(rows + CUM_LO * PLANE + i)
                e3 += cl3[:, None] - cl3[None, :]
            dA = dA * tl.exp2(tl.where(i[:, None] >= i[None, :], e3, -300.0)) * b3[None, :]
        else:
            dA = tl.where(i[:, None] >= i[None, :], dA * b3[None, :], 0.0)
        if NORM:
            dA = dA * rq3[:, None]
        x = mm0(ot3, tl.trans(hm3), PREC)
        for jb in tl.static_range(1, NV):
            c_v = jb * BV + r_v
            x = mm(tile_of(do, dod, row, valid, r0, h * V + jb * BV, H * V, c_v, V, EV, DESC),
                   tl.trans(mat_of(hs, hsd, b_k, c_v, s0 + ib * BK, jb * BV, K, V, EK and EV, DESC)), x, PREC)
        x = x * tl.load(rows + F_QUERY * PLANE + i)[:, None]
        if GATE or (NORM and NK == 1):
            qe = tile_of(q, qd, row, valid, r0, hk * K + ib * BK, G * K, b_k, K, EK, DESC)
        if GATE:
            tl.store(st + ib * PLANE + i, tl.sum(x * qe.to(tl.float32), 1))
        x = mm(dA.to(kb3.dtype), kb3, x, PREC)
        if NORM and NK == 1:
            x -= qe.to(tl.float32) * (tl.sum(x * qe.to(tl.float32), 1) * rq3 * rq3)[:, None]
        # [adjoint of role q]
        tl.store(dq + row[:, None] * (H * K) + b_k[None, :], x.to(dq.dtype.element_ty),
                 mask=valid[:, None] & (b_k < K)[None, :])

    if GATE:
        if PART != 1:
            # what passes through the chunk: e^{tot} <S0, dS>; below 2^-64 of it nothing is left in fp32
            thr = 0.0
            tot = tl.load(rows + CUM * PLANE + 63)
            if EXACT:
                tot += tl.load(rows + CUM_LO * PLANE + 63)
            if tot > -64.0:
                SB: tl.constexpr = 32 if BK >= 32 else BK
                accv = tl.zeros([BV], tl.float32)
                for jv in tl.static_range(0, NV):
                    e_v = jv * BV + r_v
                    for jk in tl.range(0, BK // SB):
                        d_k = ib * BK + jk * SB + tl.arange(0, SB)
                        m = (d_k < K)[:, None] & (e_v < V)[None, :]
                        p = d_k[:, None] * V + e_v[None, :]
                        s = tl.load(hs + p, mask=m, other=0.0).to(tl.float32)
                        ds = tl.load(dhs + p, mask=m, other=0.0).to(tl.float32)
                        accv += tl.sum(s * ds, 0)
                thr = tl.sum(accv) * tl.exp2(tot)
            tl.store(st + (3 * NK + ib) * PLANE, thr)


@triton.jit
def rows_grad_kernel(
    st, dg, dbeta, cu, start, owner, T, NT, PLANE,
    H: tl.constexpr, BH: tl.constexpr, NK: tl.constexpr,
    GATE: tl.constexpr, REVERSE: tl.constexpr, VARLEN: tl.constexpr,
):
    """dg_m = sum_{i >= m} (row terms) + sum_{j < m} (column terms) + through; dbeta: sum of the K blocks."""
    tile = tl.program_id(0)
    h = tl.program_id(1) * BH + tl.arange(0, BH)
    bos, length, slot, t0 = locate(tile, cu, start, owner, T, NT, 1, VARLEN)
    if t0 >= length:
        return
    i = tl.arange(0, 64)
    st += tile.to(tl.int64) * (H * 64)
    mh = (h < H)[None, :]
    fwd = h[None, :] * 64 + i[:, None]
    rev = h[None, :] * 64 + (63 - i)[:, None]
    pos = t0 + i
    row = bos + pos
    if REVERSE:
        row = bos + length - 1 - pos
    out = row[:, None] * H + h[None, :]
    mo = (pos < length)[:, None] & mh
    b = tl.zeros([64, BH], tl.float32)
    for ib in tl.static_range(0, NK):
        b += tl.load(st + (NK + ib) * PLANE + fwd, mask=mh, other=0.0)
    tl.store(dbeta + out, b, mask=mo)
    if GATE:
        # suffix sums of the row terms: rows from the last to the first
        x = tl.load(st + 4 * NK * PLANE + rev, mask=mh, other=0.0)
        y = tl.zeros([64, BH], tl.float32)
        thr = tl.zeros([BH], tl.float32)
        for ib in tl.static_range(0, NK):
            x += tl.load(st + ib * PLANE + rev, mask=mh, other=0.0)
            x += tl.load(st + (4 * NK + 1 + ib) * PLANE + rev, mask=mh, other=0.0)
            y += tl.load(st + (2 * NK + ib) * PLANE + fwd - 1, mask=mh & (i > 0)[:, None], other=0.0)
            thr += tl.load(st + (3 * NK + ib) * PLANE + h * 64, mask=h < H, other=0.0)
        a = tl.flip(tl.cumsum(x, 0), 0)
        # [adjoint of role g]
        tl.store(dg + out, a + tl.cumsum(y, 0) + thr[None, :], mask=mo)


@triton.jit
def norm_grad_kernel(x, dx, T, H: tl.constexpr, G: tl.constexpr, K: tl.constexpr, BK: tl.constexpr, BT: tl.constexpr):
    """dx [T, H, K] already times rstd: dx -= x <x, dx> rstd^2, in place (more than one K block)."""
    h = tl.program_id(1)
    t = tl.program_id(0).to(tl.int64) * BT + tl.arange(0, BT)
    r = tl.arange(0, BK)
    m = (t < T)[:, None] & (r < K)[None, :]
    a = tl.load(x + (t * G + h // (H // G))[:, None] * K + r[None, :], mask=m, other=0.0).to(tl.float32)
    p = dx + (t * H + h)[:, None] * K + r[None, :]
    d = tl.load(p, mask=m, other=0.0).to(tl.float32)
    s = tl.sum(a * d, 1) / (tl.sum(a * a, 1) + 1e-6)
    tl.store(p, (d - a * s[:, None]).to(dx.dtype.element_ty), mask=m)


# ---------------------------------------------------------------- host
def _prec(dtype):
    return ("ieee" if INTERP else "tf32x3") if dtype == torch.float32 else "half"


def _opts(cfg):
    o = dict(num_warps=cfg["num_warps"])
    if cfg.get("maxnreg"):
        o["maxnreg"] = cfg["maxnreg"]
    return o


def p2(n):
    return max(16, triton.next_power_of_2(n))


def default_configs(dtype, K, V):
    pk, pv = p2(K), p2(V)
    f32 = dtype == torch.float32
    big = pk > 128
    return {
        "prepare": dict(BK=min(pk, 64 if f32 else 128), num_warps=4, desc=True, inv="tf32x3" if f32 else "bf16x3"),
        "forward": dict(BV=min(pv, 16 if f32 else 32), NS=1 if f32 or big else 2, num_warps=4, desc=True),
        "output": dict(BK=min(pk, 64 if f32 else 128), BV=min(pv, 64 if f32 else 128), num_warps=4, desc=True),
        "adjoint": dict(BV=min(pv, 16 if f32 else 32), NS=1 if f32 or big else 2, num_warps=4, desc=True),
        "passes": dict(BV=min(pv, 16 if f32 else (32 if big else 64)), NS=1, num_warps=4, desc=True),
        "rest": dict(BK=min(pk, 32 if f32 else 128), BV=min(pv, 32 if f32 else 128), num_warps=4, desc=True, split=False),
        "schedule": "fused",   # fused | two_pass: state pass, then parallel output
        "save": "solve",       # nothing | solve: Tw, B, rows | states: also h and W
    }


class Plan:
    """Sizes and chunk slots of one call."""

    def __init__(self, q, v, g, cu, norm, scale, reverse):
        self.B, self.T, self.G, self.K = q.shape
        self.H, self.V = v.shape[2:]
        self.gate = 0 if g is None else (1 if g.dim() == 1 else 2)
        self.norm, self.reverse, self.cu = norm, reverse, cu
        self.scale = self.K ** -0.5 if scale is None else scale
        self.dev, self.dtype = q.device, v.dtype
        if cu is None:
            self.N = self.B
            self.NT = triton.cdiv(self.T, 64)
            self.slots = self.B * self.NT
            self.start = self.owner = self.cu_ = q
        else:
            self.N = cu.numel() - 1
            self.NT = 0
            self.slots = self.T // 64 + self.N
            self.cu_ = cu
            self.start = torch.empty(max(self.N, 1), dtype=torch.int32, device=self.dev)
            self.owner = torch.empty(max(self.slots, 1), dtype=torch.int32, device=self.dev)
            if self.N and self.slots:
                slots_kernel[(self.N,)](cu, self.start, self.owner, self.T, self.N, self.slots, 64, 256)
        self.plane = self.slots * self.H * 64
        self.prec = _prec(self.dtype)

    def desc(self, cfg, BK, BV):
        """TMA tiles: whole 64-row tiles only, in memory order, no padded columns."""
        return (bool(cfg.get("desc")) and self.slots > 0 and self.H > 0 and self.cu is None and not self.reverse and self.T % 64 == 0
                and self.K % BK == 0 and self.V % BV == 0 and self.B * self.T < 2 ** 31
                and self.slots * self.H * max(self.K, 64) < 2 ** 31)

    def empty(self, *s, dtype=None):
        return torch.empty(*s, dtype=dtype or self.dtype, device=self.dev)


def rowdesc(x, cols):
    return TensorDescriptor.from_tensor(x.view(-1, x.shape[-2] * x.shape[-1]), [64, cols])


def matdesc(x, r, c):
    return TensorDescriptor.from_tensor(x.view(-1, x.shape[-1]), [r, c])


def run_prepare(p, q, k, g, beta, want_b, cfg):
    tw = p.empty(max(p.slots, 1), p.H, 64, 64)
    bm = p.empty(max(p.slots, 1), p.H, 64, 64) if want_b else tw
    rows = p.empty(8 if p.norm else 6, max(p.slots, 1), p.H, 64, dtype=torch.float32)
    et = p.empty(max(p.slots, 1), p.H, dtype=torch.float32)
    BK = cfg["BK"]
    if p.slots and p.H:
        d = p.desc(cfg, BK, p.V)
        prepare_kernel[(p.H * p.slots,)](
            q, k, g if p.gate else beta, beta, rowdesc(q, BK) if d else q, rowdesc(k, BK) if d else k, tw, bm, rows, et,
            p.cu_, p.start, p.owner, p.T, p.NT, p.plane, p.scale, p.H, p.G, p.K, BK, p.gate, p.norm, p.reverse,
            p.cu is not None, want_b, p.prec, "ieee" if INTERP else cfg["inv"], d, **_opts(cfg))
    return tw, bm, rows, et


def run_forward(p, q, k, v, tw, bm, rows, et, h0, want_ht, read, save, cfg):
    BK, BV = p2(p.K), cfg["BV"]
    o = torch.empty_like(v) if read else None
    hs = p.empty(p.slots, p.H, p.K, p.V) if save else None
    w = torch.empty_like(v) if save else None
    ht = p.empty(p.N, p.H, p.K, p.V, dtype=torch.float32) if want_ht else None
    n = p.N * p.H * triton.cdiv(p.V, BV)
    if n:
        d = p.desc(cfg, BK, BV)
        ds = [rowdesc(q, BK), rowdesc(k, BK), rowdesc(v, BV), matdesc(tw, 64, 64), matdesc(bm, 64, 64)] if d else [q] * 5
        forward_kernel[(n,)](
            q, k, v, tw, bm, *ds, rows, et, h0 if h0 is not None else et, ht if want_ht else et, hs if save else q,
            w if save else q, o if read else q, p.cu_, p.start, p.T, p.NT, p.slots, p.plane, p.H, p.G, p.K, p.V, BK, BV,
            cfg["NS"], p.reverse, p.cu is not None, h0 is not None, want_ht, read, save, p.prec, d, **_opts(cfg))
    return o, ht, hs, w


def run_output(p, q, k, v, bm, hs, rows, cfg):
    o = torch.empty_like(v)
    BK, BV = cfg["BK"], cfg["BV"]
    n = p.slots * triton.cdiv(p.V, BV)
    if n and p.H:
        d = p.desc(cfg, BK, BV)
        ds = [rowdesc(q, BK), rowdesc(k, BK), rowdesc(v, BV), matdesc(bm, 64, 64), matdesc(hs, BK, BV)] if d else [q] * 5
        output_kernel[(n * p.H,)](q, k, v, bm, hs, *ds, rows, o, p.cu_, p.start, p.owner, p.T, p.NT, p.plane,
                                  p.H, p.G, p.K, p.V, BK, BV, p.reverse, p.cu is not None, p.prec, d, **_opts(cfg))
    return o


def run_adjoint(p, q, k, do, tw, bm, rows, et, dht, want_dh0, cfg):
    BK, BV = p2(p.K), cfg["BV"]
    dhs = p.empty(p.slots, p.H, p.K, p.V)
    dv = torch.empty_like(do)
    dh0 = p.empty(p.N, p.H, p.K, p.V, dtype=torch.float32) if want_dh0 else None
    n = p.N * p.H * triton.cdiv(p.V, BV)
    if n:
        d = p.desc(cfg, BK, BV)
        ds = [rowdesc(q, BK), rowdesc(k, BK), rowdesc(do, BV), matdesc(tw, 64, 64), matdesc(bm, 64, 64)] if d else [q] * 5
        adjoint_kernel[(n,)](
            q, k, do, tw, bm, *ds, rows, et, dht if dht is not None else et, dh0 if want_dh0 else et, dhs, dv,
            p.cu_, p.start, p.T, p.NT, p.slots, p.plane, p.H, p.G, p.K, p.V, BK, BV, cfg["NS"], p.reverse,
            p.cu is not None, dht is not None, want_dh0, p.prec, d, **_opts(cfg))
    return dhs, dv, dh0


def run_passes(p, q, k, v, do, tw, bm, rows, et, h0, dht, want_dh0, cfg):
    BK, BV = p2(p.K), cfg["BV"]
    hs = p.empty(p.slots, p.H, p.K, p.V)
    dhs = torch.empty_like(hs)
    w = torch.empty_like(v)
    dv = torch.empty_like(v)
    dh0 = p.empty(p.N, p.H, p.K, p.V, dtype=torch.float32) if want_dh0 else None
    n = p.N * p.H * triton.cdiv(p.V, BV)
    if n:
        d = p.desc(cfg, BK, BV)
        ds = [q] * 6
        if d:
            ds = [rowdesc(q, BK), rowdesc(k, BK), rowdesc(v, BV), rowdesc(do, BV), matdesc(tw, 64, 64), matdesc(bm, 64, 64)]
        passes_kernel[(2 * n,)](
            q, k, v, do, tw, bm, *ds, rows, et, h0 if h0 is not None else et, dht if dht is not None else et,
            dh0 if want_dh0 else et, hs, dhs, w, dv, p.cu_, p.start, p.T, p.NT, p.slots, p.plane,
            p.H, p.G, p.K, p.V, BK, BV, cfg["NS"], p.reverse, p.cu is not None, h0 is not None, dht is not None, want_dh0,
            p.prec, d, **_opts(cfg))
    return hs, dhs, w, dv, dh0


def run_rest(p, q, k, w, do, dv, hs, dhs, rows, et, cfg):
    BK, BV = cfg["BK"], cfg["BV"]
    nk = triton.cdiv(p.K, BK)
    keep = nk == 1 and triton.cdiv(p.V, BV) == 1
    dq = p.empty(p.B, p.T, p.H, p.K)
    dk = torch.empty_like(dq)
    st = p.empty(5 * nk + 1, p.slots, p.H, 64, dtype=torch.float32)
    if p.slots and p.H:
        d = p.desc(cfg, BK, BV)
        ds = [q] * 7
        if d:
            ds = [rowdesc(q, BK), rowdesc(k, BK), rowdesc(w, BV), rowdesc(do, BV), rowdesc(dv, BV),
                  matdesc(hs, BK, BV), matdesc(dhs, BK, BV)]
        for part in ((1, 2) if cfg.get("split") else (0,)):
            opts = _opts(cfg)
            if part and cfg.get("num_warps%d" % part):
                opts["num_warps"] = cfg["num_warps%d" % part]
            rest_kernel[(p.slots * nk * p.H,)](
                q, k, w, do, dv, hs, dhs, *ds, rows, et, dq, dk, st, p.cu_, p.start, p.owner, p.T, p.NT, p.plane, p.scale,
                p.H, p.G, p.K, p.V, BK, BV, p.gate > 0, p.norm, p.reverse, p.cu is not None, p.prec, d, keep, part,
                **opts)
        if p.norm and nk > 1:
            for x, dx in ((q, dq), (k, dk)):
                norm_grad_kernel[(triton.cdiv(p.B * p.T, 16), p.H)](x, dx, p.B * p.T, p.H, p.G, p.K, p2(p.K), 16, num_warps=4)
    return dq, dk, st


def run_rows_grad(p, st):
    dg = p.empty(p.B, p.T, p.H, dtype=torch.float32) if p.gate else None
    db = p.empty(p.B, p.T, p.H, dtype=torch.float32)
    BH = min(16, triton.next_power_of_2(p.H))
    if p.slots and p.H:
        rows_grad_kernel[(p.slots, triton.cdiv(p.H, BH))](
            st, dg if p.gate else db, db, p.cu_, p.start, p.owner, p.T, p.NT, p.plane, p.H, BH, (st.shape[0] - 1) // 5,
            p.gate > 0, p.reverse, p.cu is not None, num_warps=4)
    return dg, db


def forward(q, k, v, g, beta, h0=None, cu_seqlens=None, scale=None, reverse=False, norm=False, want_ht=True, save=True,
            cfg=None):
    """q, k [B, T, G, K], v [B, T, H, V], g [B, T, H] / [H] / None, beta [B, T, H] -> o [B, T, H, V], ht [N, H, K, V], ctx."""
    cfg = cfg or default_configs(v.dtype, q.shape[-1], v.shape[-1])
    p = Plan(q, v, g, cu_seqlens, norm, scale, reverse)
    pre = run_prepare(p, q, k, g, beta, True, cfg["prepare"])
    keep = save and cfg["save"] == "states"  # the two-pass schedule writes them anyway
    if cfg["schedule"] == "fused":
        o, ht, hs, w = run_forward(p, q, k, v, *pre, h0, want_ht, True, keep, cfg["forward"])
    else:
        _, ht, hs, w = run_forward(p, q, k, v, *pre, h0, want_ht, False, True, cfg["forward"])
        o = run_output(p, q, k, v, pre[1], hs, pre[2], cfg["output"])
    if not save or cfg["save"] == "nothing":
        return o, ht, None
    return o, ht, (pre, (hs, w) if keep else None)


def backward(q, k, v, g, beta, do, h0=None, dht=None, cu_seqlens=None, scale=None, reverse=False, norm=False, ctx=None,
             cfg=None):
    """-> dq, dk [B, T, G, K], dv, dg (like g), dbeta, dh0."""
    cfg = cfg or default_configs(v.dtype, q.shape[-1], v.shape[-1])
    p = Plan(q, v, g, cu_seqlens, norm, scale, reverse)
    pre, states = ctx or (None, None)
    pre = pre or run_prepare(p, q, k, g, beta, True, cfg["prepare"])
    if states:
        hs, w = states
        dhs, dv, dh0 = run_adjoint(p, q, k, do, *pre, dht, h0 is not None, cfg["adjoint"])
    else:
        hs, dhs, w, dv, dh0 = run_passes(p, q, k, v, do, *pre, h0, dht, h0 is not None, cfg["passes"])
    dq, dk, st = run_rest(p, q, k, w, do, dv, hs, dhs, pre[2], pre[3], cfg["rest"])
    dg, db = run_rows_grad(p, st)
    if p.G != p.H:
        dq = dq.view(p.B, p.T, p.G, p.H // p.G, p.K).sum(3)
        dk = dk.view(p.B, p.T, p.G, p.H // p.G, p.K).sum(3)
    if p.gate:
        dg = (dg.sum((0, 1)) if p.gate == 1 else dg).to(g.dtype)
    return dq, dk, dv, dg, db.to(beta.dtype), dh0


# ---------------------------------------------------------------- truth
def l2norm(x):
    return x * torch.rsqrt((x * x).sum(-1, keepdim=True) + 1e-6)


def reference(q, k, v, g, beta, h0=None, cu=None, scale=None, reverse=False, norm=False):
    """Token recurrence in the dtype of its inputs, differentiable."""
    B, T, G, K = q.shape
    H, V = v.shape[2:]
    scale = K ** -0.5 if scale is None else scale
    if norm:
        q, k = l2norm(q), l2norm(k)
    q, k = (x.repeat_interleave(H // G, 2) for x in (q, k))
    spans = [(b, 0, T) for b in range(B)] if cu is None else [(0, int(s), int(e)) for s, e in zip(cu[:-1], cu[1:])]
    finals, rows = [], {}
    for n, (b, s, e) in enumerate(spans):
        S = torch.zeros(H, K, V, dtype=q.dtype, device=q.device) if h0 is None else h0[n].to(q.dtype)
        for t in (range(e - 1, s - 1, -1) if reverse else range(s, e)):
            if g is not None:
                S = torch.exp(g if g.dim() == 1 else g[b, t])[:, None, None] * S
            u = beta[b, t][:, None] * (v[b, t] - (k[b, t][:, :, None] * S).sum(1))
            S = S + k[b, t][:, :, None] * u[:, None, :]
            rows[b, t] = scale * (q[b, t][:, :, None] * S).sum(1)
        finals.append(S)
    o = torch.stack([torch.stack([rows.get((b, t), torch.zeros(H, V, dtype=q.dtype, device=q.device))
                                  for t in range(T)]) if T else v[b] * 0 for b in range(B)])
    return o, torch.stack(finals)


def chunked_reference(q, k, v, g, beta, h0=None, scale=None, norm=False, C=64):
    """float64 chunk form for GPU checks, gates without -inf; differentiable."""
    B, T, G, K = q.shape
    H, V = v.shape[2:]
    scale = K ** -0.5 if scale is None else scale
    if norm:
        q, k = l2norm(q), l2norm(k)
    q, k = (x.repeat_interleave(H // G, 2) for x in (q, k))
    S = torch.zeros(B, H, K, V, dtype=q.dtype, device=q.device) if h0 is None else h0
    outs = []
    for t in range(0, T, C):
        a, b, c = (x[:, t:t + C].transpose(1, 2) for x in (q, k, v))
        bt = beta[:, t:t + C].transpose(1, 2)[..., None]
        n = a.shape[2]
        if g is None:
            gg = torch.zeros(B, H, n, dtype=q.dtype, device=q.device)
        elif g.dim() == 1:
            gg = g[None, :, None].expand(B, H, n)
        else:
            gg = g[:, t:t + C].transpose(1, 2)
        cs = gg.cumsum(-1)
        m = torch.ones(n, n, dtype=torch.bool, device=q.device).tril()
        D = torch.exp((cs[..., :, None] - cs[..., None, :]).masked_fill(~m, -1e9))
        e = torch.exp(cs)[..., None]
        L = torch.eye(n, dtype=q.dtype, device=q.device) + (bt * (b @ b.transpose(-1, -2)) * D).tril(-1)
        u = torch.linalg.solve_triangular(L, bt * (c - e * (b @ S)), upper=False, unitriangular=True)
        o = (a @ b.transpose(-1, -2) * D) @ u + e * (a @ S)
        S = S * torch.exp(cs[..., -1])[..., None, None] + (b * torch.exp(cs[..., -1:] - cs)[..., None]).transpose(-1, -2) @ u
        outs.append(o.transpose(1, 2) * scale)
    return torch.cat(outs, 1), S


def err(x, ref):
    x, ref = x.double(), ref.double()
    if not ref.numel():
        return 0.0
    return float((x - ref).pow(2).mean().sqrt() / ref.pow(2).mean().sqrt().clamp_min(1e-30))


def make(B, T, H, G, K, V, gate="token", keys="random", beta="sigmoid", norm=False, dtype=torch.float32, device="cpu",
         N=None, seed=0):
    gen = torch.Generator().manual_seed(seed)
    rn = lambda *s: torch.randn(*s, generator=gen).to(device)
    q, k, v, do = (rn(B, T, n, d) for n, d in ((G, K), (G, K), (H, V), (H, V)))
    if keys == "corr":
        k = 0.9 * rn(B, 1, G, K) + 0.45 * k
    if keys == "same":
        k = rn(B, 1, G, K) + 0 * k
    if not norm:
        q, k = l2norm(q), l2norm(k)
    q, k, v, do = (x.to(dtype) for x in (q, k, v, do))
    if beta == "sigmoid":
        b = torch.sigmoid(rn(B, T, H))
    elif beta != "mix":
        b = torch.full((B, T, H), float(beta), device=device)
    else:
        b = torch.randint(0, 3, (B, T, H), generator=gen).to(device).float()
    g = None if gate == "none" else torch.nn.functional.logsigmoid(rn(B, T, H))
    if gate == "head":
        g = -torch.rand(H, generator=gen).to(device) * 0.3
    if gate == "weak":
        g = g / 16
    if gate == "strong":
        g = g * 8
    if gate in ("0", "20", "100"):
        g = g * 0 - float(gate)
    if gate == "inf":
        g = torch.where(rn(B, T, H) > 1.3, -float("inf"), g)
    if gate == "mix":
        r = rn(B, T, H)
        g = torch.where(r > 1.0, -100.0, torch.where(r < -1.5, -float("inf"), g / 16))
    h0, dht = rn(N or B, H, K, V), rn(N or B, H, K, V)
    return q, k, v, g, b.to(dtype), do, h0, dht


def case(B, T, H, G, K, V, gate="token", keys="random", beta="sigmoid", norm=False, dtype=torch.float32, device="cpu",
         cu=None, reverse=False, cfg=None, state=True, limits=(1e-4, 1e-4, 1e-4), tokens=True, seed=0, quiet=False):
    N = B if cu is None else len(cu) - 1
    q, k, v, g, b, do, h0, dht = make(B, T, H, G, K, V, gate, keys, beta, norm, dtype, device, N, seed)
    if not state:
        h0 = dht = None
    cut = None if cu is None else torch.tensor(cu, dtype=torch.int32, device=device)
    ref_in = [None if x is None else x.double().requires_grad_() for x in (q, k, v, g, b, h0)]
    if tokens:
        ro, rh = reference(*ref_in, cu=cu, reverse=reverse, norm=norm)
    else:
        ro, rh = chunked_reference(*ref_in, norm=norm)
    loss = (ro * do.double()).sum() + (0 if dht is None else (rh * dht.double()).sum())
    live = [x for x in ref_in if x is not None]
    grads = torch.autograd.grad(loss, live, allow_unused=True)
    grads = [torch.zeros_like(x) if y is None else y for x, y in zip(live, grads)]
    cfg = cfg or default_configs(dtype, K, V)
    o, ht, ctx = forward(q, k, v, g, b, h0, cut, reverse=reverse, norm=norm, cfg=cfg)
    out = backward(q, k, v, g, b, do, h0, dht, cut, reverse=reverse, norm=norm, ctx=ctx, cfg=cfg)
    got = [x for x in out if x is not None]
    names = ["q", "k", "v"] + (["g"] if g is not None else []) + ["b"] + (["h0"] if h0 is not None else [])
    res = {"o": err(o, ro), "ht": err(ht, rh)}
    # floor of the gradient errors: where the truth vanishes, its usual scale counts
    for n, x, r in zip(names, got, grads):
        if n in "gqkb" and r.numel():
            e = (x.double() - r).pow(2).mean().sqrt()
            floor = 2.0 ** -20 * float(K * V) ** 0.5 if n == "g" else 2.0 ** -20
            res["d" + n] = float(e / r.pow(2).mean().sqrt().clamp_min(floor))
        else:
            res["d" + n] = err(x, r)
    lim = {"o": limits[0], "ht": limits[0], "dg": limits[2], "db": limits[2]}
    bad = [n for n, e in res.items() if not e <= lim.get(n, limits[1])]
    text = " ".join((("FAIL " + ",".join(bad) if bad else "ok  "), f"B{B} T{T} H{H} G{G} K{K} V{V} g={gate} k={keys} b={beta} "
          f"{str(dtype)[6:]}{' norm' if norm else ''}{' cu' if cu else ''}{' rev' if reverse else ''}",
          str({n: float(f"{e:.1e}") for n, e in res.items()})))
    if quiet:
        return not bad, text
    print(text, flush=True)
    return not bad


def interp(full=True):
    ok = True

    def cf(K, V, bk=None, bv=None, **kw):
        c = default_configs(torch.float32, K, V)
        for n in ("prepare", "forward", "output", "adjoint", "passes", "rest"):
            if bk and "BK" in c[n]:
                c[n] = {**c[n], "BK": bk}
            if bv and "BV" in c[n]:
                c[n] = {**c[n], "BV": bv}
        for n, x in kw.items():
            c[n] = {**c[n], **x} if isinstance(x, dict) else x
        return c
    ok &= case(1, 150, 2, 1, 16, 16, "token")
    ok &= case(1, 150, 2, 1, 16, 16, "none")
    ok &= case(1, 150, 2, 1, 16, 16, "weak", norm=True)
    ok &= case(1, 150, 2, 2, 32, 16, "weak", norm=True, cfg=cf(32, 16, 16, 16))
    ok &= case(2, 128, 2, 1, 16, 32, "weak", norm=True, cfg=cf(16, 32, 16, 32, save="states"))
    if not full:
        return ok
    for gate in ("head", "0", "strong", "20", "100", "inf", "mix"):
        ok &= case(1, 130, 2, 1, 16, 16, gate, beta="mix" if gate == "mix" else "sigmoid")
    for beta in ("0", "1", "2"):
        for keys in ("random", "corr", "same"):
            # beta 2, one key, no decay: reflections, nothing damps rounding errors
            hard = (1e-3,) * 3 if beta == "2" else (1e-4,) * 3
            ok &= case(1, 129, 1, 1, 16, 16, "none" if beta == "2" else "weak", keys, beta, limits=hard, seed=3)
    ok &= case(1, 129, 1, 1, 16, 16, "none", "same", "1", norm=True)
    ok &= case(2, 67, 2, 2, 20, 40, "token")
    ok &= case(2, 65, 2, 1, 48, 24, "none", norm=True, cfg=cf(48, 24, 16, 16))
    ok &= case(1, 130, 1, 1, 16, 48, "mix", cfg=cf(16, 48, 16, 16, rest={"split": True}))
    ok &= case(1, 128, 2, 1, 16, 16, "weak", norm=True, cfg=cf(16, 16, rest={"split": True}, save="nothing"))
    ok &= case(2, 131, 2, 1, 16, 16, "mix", reverse=True, cfg=cf(16, 16, save="states"))
    ok &= case(2, 131, 2, 1, 16, 16, "weak", reverse=True, cfg=cf(16, 16, schedule="two_pass"))
    ok &= case(1, 200, 2, 1, 16, 16, "inf", cu=[0, 63, 63, 129, 200])
    ok &= case(1, 200, 2, 1, 16, 16, "token", cu=[0, 1, 65, 65, 200], reverse=True, cfg=cf(16, 16, schedule="two_pass"))
    ok &= case(1, 1, 1, 1, 1, 1, "token")
    ok &= case(2, 128, 2, 1, 16, 16, "token", cfg=cf(16, 16, schedule="two_pass"))
    ok &= case(2, 128, 2, 1, 32, 16, "mix", cfg=cf(32, 16, 16, 16))
    ok &= case(1, 0, 1, 1, 16, 16, "token")
    ok &= case(1, 64, 1, 1, 16, 16, "token", state=False)
    print("ALL OK" if ok else "FAILED")
    return ok


def with_(K, V, dtype=torch.bfloat16, **kw):
    c = default_configs(dtype, K, V)
    for n, x in kw.items():
        c[n] = {**c[n], **x} if isinstance(x, dict) else x
    return c


def check(device="cuda"):
    """bf16, fp16, fp32 against float64 on the GPU; schedules; every candidate at bf16. Cases run in 12 threads."""
    from concurrent.futures import ThreadPoolExecutor

    bf, half, f32 = torch.bfloat16, torch.float16, torch.float32
    lim = (5e-3, 8e-3, 2e-2)
    big = dict(device=device, tokens=False, limits=lim, quiet=True)
    few = dict(device=device, limits=lim, quiet=True)
    exact = dict(device=device, tokens=False, quiet=True)
    jobs = []

    def add(*a, tag="", need=True, **kw):
        jobs.append((tag, need, a, kw))

    for gate in ("token", "none", "head", "weak", "strong", "20", "0"):
        add(2, 1024, 4, 4, 128, 128, gate, dtype=bf, norm=gate in ("weak", "none"), **big)
    add(2, 1024, 4, 4, 128, 128, "none", dtype=bf, **big)
    for sch, save in (("fused", "states"), ("two_pass", "nothing"), ("two_pass", "states")):
        for gate in ("token", "none"):
            add(2, 1024, 4, 4, 128, 128, gate, dtype=bf, cfg=with_(128, 128, schedule=sch, save=save), tag=f"{sch} {save} ", **big)
    add(2, 1024, 4, 2, 64, 64, "token", dtype=bf, **big)
    add(2, 1000, 4, 2, 64, 128, "token", dtype=half, **big)
    add(2, 1024, 4, 2, 128, 128, "weak", dtype=half, norm=True, **big)
    add(1, 777, 4, 2, 256, 256, "token", dtype=bf, **big)
    add(1, 768, 4, 2, 256, 128, "weak", dtype=bf, norm=True, **big)
    add(1, 300, 4, 2, 100, 60, "weak", dtype=bf, norm=True, **big)
    add(1, 500, 4, 2, 64, 64, "token", dtype=f32, **exact)
    add(1, 512, 2, 2, 128, 128, "weak", dtype=f32, norm=True, **exact)
    add(1, 200, 2, 1, 32, 32, "mix", dtype=f32, device=device, quiet=True)
    add(1, 200, 2, 1, 32, 32, "inf", dtype=bf, **few)
    add(1, 200, 2, 1, 32, 32, "mix", dtype=bf, reverse=True, **few)
    add(1, 260, 2, 1, 64, 64, "token", dtype=bf, cu=[0, 63, 63, 129, 260], **few)
    add(1, 260, 2, 1, 64, 64, "token", dtype=bf, cu=[0, 1, 65, 65, 260], reverse=True, **few)
    for name in ("prepare", "forward", "passes", "adjoint", "rest"):
        for cand in CANDIDATES[name]:
            c = with_(128, 128, save="states" if name == "adjoint" else "solve", **{name: cand})
            for gate in ("weak", "none") if name == "rest" else ("weak",):
                add(2, 512, 4, 4, 128, 128, gate, dtype=bf, norm=name in ("prepare", "rest"), cfg=c, tag=f"{name} {cand} ", **big)
    for keys in ("corr", "same"):
        for beta in ("sigmoid", "1"):
            for gate in ("none", "weak"):
                add(2, 1024, 4, 4, 128, 128, gate, keys, beta, dtype=bf, tag="(information) ", need=False, **big)
                add(1, 256, 2, 2, 64, 64, gate, keys, beta, dtype=f32, tag="(information) ", need=False, **exact)

    def attempt(j):
        try:
            return case(*j[2], **j[3])
        except Exception as e:
            return False, f"ERR  {j[2]} {repr(e)[:200]}"

    t = time.time()
    ok = attempt(jobs[0])[0]  # starts CUDA and autograd before the threads
    with ThreadPoolExecutor(12) as pool:
        for j, (good, text) in zip(jobs, pool.map(attempt, jobs)):
            print(text[:5] + j[0] + text[5:], flush=True)
            ok &= good or not j[1]
    q, k, v, g, b, do, h0, dht = make(2, 2048, 8, 8, 128, 128, "token", dtype=bf, device=device)
    two = [[*forward(q, k, v, g, b, h0)[:2], *backward(q, k, v, g, b, do, h0, dht)] for _ in range(2)]
    same = all(torch.equal(x, y) for x, y in zip(*two))
    print("deterministic" if same else "NOT DETERMINISTIC", f"{time.time() - t:.0f} s")
    print("CHECK OK" if ok and same else "CHECK FAILED", flush=True)


def _s(BV, NS, w=4, mx=0, desc=True):
    return dict(BV=BV, NS=NS, num_warps=w, maxnreg=mx, desc=desc)


def _r(BK, BV, w=4, desc=True, split=False, mx=0):
    return dict(BK=BK, BV=BV, num_warps=w, desc=desc, split=split, maxnreg=mx)


CANDIDATES = {
    "prepare": [dict(BK=128, num_warps=w, desc=d, inv=i) for w, d, i in (
        (4, True, "bf16x3"), (4, False, "bf16x3"), (8, True, "bf16x3"), (4, True, "tf32"), (4, True, "tf32x3"))]
    + [dict(BK=128, num_warps=4, desc=True, inv="bf16x3", maxnreg=168)],
    "forward": [_s(32, 2), _s(32, 3), _s(32, 1), _s(16, 2), _s(16, 3), _s(64, 2), _s(64, 1), _s(32, 2, desc=False), _s(32, 3, desc=False)],
    "passes": [_s(64, 2), _s(64, 1), _s(64, 3), _s(32, 2), _s(32, 1), _s(32, 3), _s(64, 2, desc=False), _s(32, 2, desc=False),
               _s(32, 1, desc=False)],
    "adjoint": [_s(32, 2), _s(32, 3), _s(32, 1), _s(16, 2), _s(64, 2), _s(32, 2, desc=False)],
    "rest": [_r(128, 128), _r(128, 128, desc=False), _r(128, 128, 8), _r(128, 128, split=True), _r(128, 128, desc=False, split=True),
             _r(64, 128), _r(64, 64)],
    "output": [dict(BK=128, BV=bv, num_warps=4, desc=d) for bv in (128, 64) for d in (True, False)],
}


def bench(B=2, T=16384, H=16, K=128, V=128, dtype=torch.bfloat16, gate="token", norm=True, only=None):
    """Medians in us per kernel and candidate, then forward and forward+backward with the best."""
    from concurrent.futures import ThreadPoolExecutor

    q, k, v, g, b, do, h0, dht = make(B, T, H, H, K, V, gate, norm=norm, dtype=dtype, device="cuda")
    p = Plan(q, v, g, None, norm, None, False)
    cfg = default_configs(dtype, K, V)
    pre = run_prepare(p, q, k, g, b, True, cfg["prepare"])
    o, ht, hs, w = run_forward(p, q, k, v, *pre, None, False, True, True, cfg["forward"])
    dhs, dv, _ = run_adjoint(p, q, k, do, *pre, None, False, cfg["adjoint"])
    dq, dk, st = run_rest(p, q, k, w, do, dv, hs, dhs, pre[2], pre[3], cfg["rest"])
    jobs = [("rows_grad", {}, lambda: run_rows_grad(p, st))]
    for c in CANDIDATES["prepare"]:
        jobs.append(("prepare", c, lambda c=c: run_prepare(p, q, k, g, b, True, c)))
    for c in CANDIDATES["forward"]:
        jobs.append(("forward", c, lambda c=c: run_forward(p, q, k, v, *pre, None, False, True, False, c)))
        jobs.append(("forward save", c, lambda c=c: run_forward(p, q, k, v, *pre, None, False, True, True, c)))
        jobs.append(("state", c, lambda c=c: run_forward(p, q, k, v, *pre, None, False, False, True, c)))
    for c in CANDIDATES["output"]:
        jobs.append(("output", c, lambda c=c: run_output(p, q, k, v, pre[1], hs, pre[2], c)))
    for c in CANDIDATES["adjoint"]:
        jobs.append(("adjoint", c, lambda c=c: run_adjoint(p, q, k, do, *pre, None, False, c)))
    for c in CANDIDATES["passes"]:
        jobs.append(("passes", c, lambda c=c: run_passes(p, q, k, v, do, *pre, None, None, False, c)))
    for c in CANDIDATES["rest"]:
        jobs.append(("rest", c, lambda c=c: run_rest(p, q, k, w, do, dv, hs, dhs, pre[2], pre[3], c)))
    if only:
        jobs = [j for j in jobs if only in j[0]]

    def attempt(j):
        try:
            j[2]()
            return None
        except Exception as e:
            return repr(e)[:150]

    t = time.time()
    with ThreadPoolExecutor(12) as pool:
        errors = list(pool.map(attempt, jobs))
    torch.cuda.synchronize()
    print(f"compiled {len(jobs)} in {time.time() - t:.1f} s", flush=True)
    best = {}
    for (name, c, f), e in zip(jobs, errors):
        if e:
            print(f"{name:14s} {c} {e}")
            continue
        us = 1e3 * triton.testing.do_bench(f, warmup=5, rep=30, return_mode="median")
        print(f"{name:14s} {us:8.1f} us  {c}", flush=True)
        if us < best.get(name, (1e9,))[0] and c.get("inv", "bf16x3") == "bf16x3":
            best[name] = (us, c)
    print("BEST", {n: (round(u), c) for n, (u, c) in best.items()})
    if only:
        return
    for n in ("prepare", "output", "adjoint", "passes", "rest", "forward"):
        best.setdefault(n, (0, default_configs(dtype, K, V)[n]))
    for n in ("state", "forward save"):
        best.setdefault(n, best["forward"])
    med = lambda f: triton.testing.do_bench(f, warmup=10, rep=60, return_mode="median")
    for sch in ("fused", "two_pass"):
        for save in ("nothing", "solve", "states"):
            serial = best["state"] if sch == "two_pass" else best["forward save" if save == "states" else "forward"]
            cfg = {"schedule": sch, "save": save, "forward": serial[1],
                   **{n: best[n][1] for n in ("prepare", "output", "adjoint", "passes", "rest")}}
            fwd = lambda: forward(q, k, v, g, b, norm=norm, want_ht=False, cfg=cfg)
            ctx = fwd()[2]
            bwd = lambda ctx: backward(q, k, v, g, b, do, norm=norm, ctx=ctx, cfg=cfg)
            fw = med(lambda: forward(q, k, v, g, b, norm=norm, want_ht=False, save=False, cfg=cfg))
            bw, fb = med(lambda: bwd(ctx)), med(lambda: bwd(fwd()[2]))
            print(f"{sch} save={save}: fwd {fw:.3f} ms, bwd {bw:.3f} ms, fwd+bwd {fb:.3f} ms", flush=True)


if __name__ == "__main__":
    what = sys.argv[1] if len(sys.argv) > 1 else "interp"
    if what == "interp":
        interp()
    if what == "quick":
        interp(False)
    if what == "check":
        check()
    if what == "bench":
        # FLA's benchmark: q, k normalised inside the kernels
        for gate in sys.argv[2:] or ["token"]:
            norm = not gate.endswith("-plain")
            print("gate", gate, "norm", norm)
            bench(gate=gate.removesuffix("-plain"), norm=norm)
