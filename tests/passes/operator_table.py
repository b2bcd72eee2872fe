"""The operators of the reference table, each in a few lines: `SPECS[name]` is YAML."""

from __future__ import annotations

import re
import textwrap

from seqgen.ir.recurrence import Recurrence
from seqgen.passes.lower import lower
from seqgen.spec.loader import parse_spec

SC = {"q": "q * K ** -0.5"}
NQ = {"q": "l2norm(q, K) * K ** -0.5", "k": "l2norm(k, K)"}
READ = {"o": "sum(q*S, K)"}
QKV = {"q": "[H, K]", "k": "[H, K]", "v": "[H, V]"}
DELTA = "S = S + beta*k*(v - sum(k*S, K))"


def yaml(
    name: str,
    inputs: dict[str, str],
    states: dict[str, str],
    update: list[str],
    output: dict[str, str],
    let: dict[str, str] | None = None,
    parameters: dict[str, str] | None = None,
    axes: dict[str, str] | None = None,
    require: str = "",
) -> str:
    lines = [f"operator: {name}"]
    sections = (
        ("axes", axes), ("inputs", inputs), ("parameters", parameters), ("state", states),
        ("let", let),
    )  # fmt: skip
    for title, entries in sections:
        if entries:
            lines.append(f"{title}:")
            lines += [f"  {key}: {_quoted(title, value)}" for key, value in entries.items()]
    lines.append("update:")
    for item in update:
        if item.startswith("{"):
            lines.append(f"  - {item}")
        else:
            lines.append(f'  - "{item}"')
    lines.append("output:")
    lines += [f"  {key}: {_quoted('output', value)}" for key, value in output.items()]
    if require:
        lines.append(f"require: {require}")
    return "\n".join(lines) + "\n"


def _quoted(section: str, value: str) -> str:
    return f'"{value}"' if section in ("let", "output") else value


HKV = {"H": "4", "K": "64", "V": "64"}
GROUPED = {"H": "4", "K": "64", "V": "64", "HV": "{groups_of: H, size: 8}"}


def qkv(name, update, inputs=None, let=None, states=None, output=None, **more) -> str:
    """An operator that differs from plain linear attention as given; inputs only if used."""
    inputs = {**QKV, **(inputs or {})}
    equations = str((update, SC if let is None else let, output or READ))
    return yaml(
        name,
        inputs={k: v for k, v in inputs.items() if re.search(rf"\b{k}\b", equations)},
        states=states or {"S": "[H, K, V]"},
        update=update if isinstance(update, list) else [update],
        output=output or READ,
        let=SC if let is None else let,
        axes=more.pop("axes", HKV),
        **more,
    )


GSA_AXES = {**HKV, "M": "16"}
GSA_OUT = {"o": "sum(softmax(sum(q*Hk, K), M)*Hv, M)"}
GSA_STATES = {"Hk": "[H, K, M]", "Hv": "[H, M, V]"}
GDN = {
    "inputs": {"q": "[H, K]", "k": "[H, K]", "v": "[HV, V]", "g": "[HV]", "beta": "[HV]"},
    "states": {"S": "[HV, K, V]"},
    "axes": GROUPED,
}

SPECS: dict[str, str] = {
    "linear_attention": qkv("linear_attention", "S = S + k*v"),
    "normalised": qkv(
        "normalised",
        ["S = S + k*v", "z = z + k"],
        states={"S": "[H, K, V]", "z": "[H, K]"},
        output={"o": "sum(q*S, K) / (sum(q*z, K) + 1e-10)"},
    ),
    "retnet": qkv("retnet", "S = exp(g)*S + k*v", let={**SC, "g": "log1p(-2**(-5 - index(H)))"}),
    "lightning": qkv(
        "lightning",
        "S = exp(g)*S + k*v",
        let={**SC, "g": "-8/H*(1 - frac)*index(H)"},
        parameters={"frac": "[]"},
    ),
    "simple_gla": qkv("simple_gla", "S = exp(g)*S + k*v", {"g": "[H]"}),
    "gla": qkv("gla", "S = exp(g)*S + k*v", {"g": "[H, K]"}),
    "value_decay": qkv("value_decay", "S = exp(gv)*S + k*v", {"gv": "[H, V]"}),
    "key_value_decay": qkv(
        "key_value_decay", "S = exp(gk)*exp(gv)*S + k*v", {"gk": "[H, K]", "gv": "[H, V]"}
    ),
    "rwkv6": yaml(
        "rwkv6",
        inputs={"r": "[H, K]", "w": "[H, K]", "k": "[H, K]", "v": "[H, V]"},
        parameters={"u": "[H, K]"},
        states={"S": "[H, K, V]"},
        update=["S = exp(w)*S + k*v"],
        output={"o": "K**-0.5 * sum(r*(prev(S) + u*k*v), K)"},
        axes=HKV,
    ),
    "hgrn": yaml(
        "hgrn",
        inputs={"x": "[D]", "g": "[D]"},
        states={"h": "[D]"},
        update=["h = exp(g)*h + x"],
        output={"o": "h"},
        axes={"D": "256"},
    ),
    "hgrn2": yaml(
        "hgrn2",
        inputs={"q": "[H, K]", "g": "[H, K]", "v": "[H, V]"},
        states={"S": "[H, K, V]"},
        let={"k": "1 - exp(g)"},
        update=["S = exp(g)*S + k*v"],
        output=READ,
        axes=HKV,
    ),
    "mamba2": yaml(
        "mamba2",
        inputs={"x": "[H, P]", "dt": "[H]", "B": "[G, N]", "C": "[G, N]", "z": "[H, P]"},
        parameters={"A": "[H]", "D": "[H]", "dt_bias": "[H]"},
        states={"h": "[H, N, P]"},
        let={"dt": "softplus(dt + dt_bias)"},
        update=["h = exp(dt*A)*h + dt*x*B"],
        output={"y": "(sum(h*C, N) + D*x) * silu(z)"},
        axes={"G": "2", "H": "{groups_of: G, size: 8}", "N": "64", "P": "64"},
    ),
    "mamba1": yaml(
        "mamba1",
        inputs={
            "u": "[D]",
            "delta": "[D]",
            "B": "[G, N]",
            "C": "[G, N]",
            "z": "{axes: [D], optional: true}",
        },
        parameters={"A": "[D, N]", "skip": "[D]", "delta_bias": "[D]"},
        states={"h": "[D, N]"},
        let={"dt": "softplus(delta + delta_bias)"},
        update=["h = exp(dt*A)*h + dt*u*B"],
        output={"y": "(sum(h*C, N) + skip*u) * (silu(z) if z else 1)"},
        axes={"G": "2", "D": "{groups_of: G, size: 64}", "N": "16"},
    ),
    "deltanet": qkv("deltanet", DELTA, {"beta": "[H]"}, let=NQ),
    "gated_deltanet": yaml(
        "gated_deltanet", update=["S = exp(g)*S", DELTA], output=READ, let=NQ, **GDN
    ),
    "gated_deltanet_gates": yaml(
        "gated_deltanet_gates",
        inputs={"q": "[H, K]", "k": "[H, K]", "v": "[HV, V]", "a": "[HV]", "b": "[HV]"},
        parameters={"A_log": "[HV]", "dt_bias": "[HV]"},
        states={"S": "[HV, K, V]"},
        update=["S = exp(g)*S", DELTA],
        output=READ,
        let={**NQ, "g": "-exp(A_log)*softplus(a + dt_bias)", "beta": "2*sigmoid(b)"},
        axes=GROUPED,
    ),
    "kda": yaml(
        "kda",
        inputs={**GDN["inputs"], "g": "[HV, K]"},
        states=GDN["states"],
        update=["S = exp(g)*S", DELTA],
        output=READ,
        let=NQ,
        axes=GROUPED,
    ),
    "kda_one_line": qkv(
        "kda_one_line",
        "S = exp(g)*S + beta*k*(v - sum(k*exp(g)*S, K))",
        {"g": "[H, K]", "beta": "[H]"},
    ),
    "gdn2": qkv("gdn2", "S = S + k*(w*v - sum(b*k*S, K))", {"b": "[H, K]", "w": "[H, V]"}),
    "comba": qkv(
        "comba",
        ["S = exp(g)*S", "S = S + k*beta*(v - sum(p*S, K))"],
        {"p": "[H, K]", "g": "[H]", "beta": "[H]"},
    ),
    "gated_oja": qkv(
        "gated_oja",
        ["S = exp(gv)*S", "S = S + beta*(k - sum(v*S, V))*v"],
        {"gv": "[H, V]", "beta": "[H]"},
    ),
    "delta_per_value": qkv(
        "delta_per_value", "S = S + k*beta*(v - sum(k*S, K))", {"beta": "[H, V]"}
    ),
    "delta_product": yaml(
        "delta_product",
        inputs={
            "q": "[H, K]",
            "k": "[R, H, K]",
            "v": "[R, H, V]",
            "g": "[H]",
            "beta": "[R, H]",
        },
        states={"S": "[H, K, V]"},
        let={"k": "l2norm(k, K)"},
        update=["S = exp(g)*S", f'{{repeat: R, do: ["{DELTA}"]}}'],
        output=READ,
        axes={**HKV, "R": "2"},
    ),
    "dplr": qkv(
        "dplr",
        "S = exp(g)*S + b*sum(a*S, K) + k*v",
        {"a": "[H, K]", "b": "[H, K]", "g": "[H, K]"},
    ),
    "iplr": qkv("iplr", "S = S + b*sum(a*S, K) + k*v", {"a": "[H, K]", "b": "[H, K]"}),
    "rwkv7": yaml(
        "rwkv7",
        inputs={
            "r": "[H, K]",
            "w": "[H, K]",
            "k": "[H, K]",
            "v": "[H, V]",
            "kk": "[H, K]",
            "a": "[H, K]",
        },
        states={"S": "[H, K, V]"},
        update=["S = exp(w)*S - kk*a*sum(kk*S, K) + k*v"],
        output={"o": "sum(r*S, K)"},
        axes=HKV,
    ),
    "mamba3": yaml(
        "mamba3",
        inputs={
            "q": "[H, N]",
            "k": "[H, N]",
            "v": "[H, P]",
            "adt": "[H]",
            "dt": "[H]",
            "lam": "[H]",
            "angle": "[H, R]",
        },
        parameters={"kb": "[H, N]"},
        states={"th": "[H, R]", "S": "[H, N, P]"},
        let={"k": "k + kb"},
        update=[
            "th = th + pi*tanh(angle)*dt",
            "S = exp(adt)*S + (1-lam)*dt*exp(adt)*rotary(prev(k), N, prev(th), R)*prev(v)"
            " + lam*dt*rotary(k, N, th, R)*v",
        ],
        output={"o": "sum(rotary(q, N, th, R)*S, N)"},
        axes={"H": "4", "R": "32", "N": "2*R", "P": "64"},
    ),
    "mlstm": qkv(
        "mlstm",
        [
            "m = max(lf + m, i)",
            "fs = exp(lf + prev(m) - m)",
            "ii = exp(i - m)",
            "C = fs*C + ii*k*v",
            "n = fs*n + ii*k",
        ],
        {"lf": "[H]", "i": "[H]"},
        states={"C": "[H, K, V]", "n": "[H, K]", "m": "[H]"},
        output={"h": "sum(q*C, K) / (max(abs(sum(q*n, K)), exp(-m)) + 1e-6)"},
    ),
    "gsa": qkv(
        "gsa",
        ["Hk = exp(g)*Hk + k*s", "Hv = exp(g)*Hv + s*v"],
        {"s": "[H, M]", "g": "[H, M]"},
        states=GSA_STATES,
        output=GSA_OUT,
        axes=GSA_AXES,
    ),
    "abc": qkv(
        "abc",
        [
            "z = logaddexp(z, s)",
            "g = prev(z) - z",
            "e = exp(s - z)",
            "Hk = exp(g)*Hk + k*e",
            "Hv = exp(g)*Hv + e*v",
        ],
        {"s": "[H, M]"},
        states={**GSA_STATES, "z": "{axes: [H, M], init: -.inf}"},
        output=GSA_OUT,
        axes=GSA_AXES,
    ),
    "preconditioned_gdn": yaml(
        "preconditioned_gdn",
        inputs={**GDN["inputs"], "g_atk": "[H]", "beta_atk": "[H]"},
        parameters={"center": "[H]"},
        states={"A": "[H, K]", **GDN["states"]},
        update=[
            "A = exp(g_atk)*A + beta_atk*k*k",
            "r = log(A + 1e-6) - center",
            "kp = k*exp(-0.405465*r/(1 + abs(r)))",
            "S = exp(g)*S",
            "S = S + beta*kp*(v - sum(k*S, K))",
        ],
        output=READ,
        let=NQ,
        axes=GROUPED,
    ),
    "slstm": yaml(
        "slstm",
        inputs={"z": "[D]", "i": "[D]", "f": "[D]"},
        states={"c": "[D]", "n": "[D]", "m": "[D]"},
        update=[
            "m = max(f + m, i)",
            "fs = exp(f + prev(m) - m)",
            "ii = exp(i - m)",
            "c = fs*c + ii*tanh(z)",
            "n = fs*n + ii",
        ],
        output={"o": "c / n"},
        axes={"D": "64"},
    ),
    "rwkv4": yaml(
        "rwkv4",
        inputs={"k": "[D]", "v": "[D]"},
        parameters={"w": "[D]", "u": "[D]"},
        states={"a": "[D]", "b": "[D]", "m": "{axes: [D], init: -.inf}"},
        update=[
            "m = max(m - w, k)",
            "fs = exp(prev(m) - w - m)",
            "a = fs*a + exp(k - m)*v",
            "b = fs*b + exp(k - m)",
            "p = max(prev(m), u + k)",
        ],
        output={
            "o": "(exp(prev(m) - p)*prev(a) + exp(u + k - p)*v)"
            " / (exp(prev(m) - p)*prev(b) + exp(u + k - p))"
        },
        axes={"D": "64"},
    ),
    "s4d": yaml(
        "s4d",
        inputs={"u": "[D]"},
        parameters={"ar": "[D, N]", "ai": "[D, N]", "br": "[D, N]", "cr": "[D, N]", "ci": "[D, N]"},
        states={"hr": "[D, N]", "hi": "[D, N]"},
        update=[
            "new = ar*hr - ai*hi + br*u",
            "hi = ai*hr + ar*hi",
            "hr = new",
        ],
        output={"y": "sum(cr*hr - ci*hi, N)"},
        axes={"D": "64", "N": "16"},
    ),
    "ttt": qkv(
        "ttt",
        [
            "y = sum(k*W, K) + b",
            "c = y - mean(y, V)",
            "n = c*rsqrt(mean(c*c, V) + 1e-6)",
            "e = n*w + bias - (v - rename(k, K=V))",
            "W = W - eta*k*e",
            "b = b - eta*e",
        ],
        {"eta": "[H]"},
        states={"W": "[H, K, V]", "b": "[H, V]"},
        output={"o": "sum(q*W, K) + b"},
        parameters={"w": "[H, V]", "bias": "[H, V]"},
        axes={"H": "4", "K": "64", "V": "{same_as: K}"},
    ),
    "ttt_minibatch": qkv(
        "ttt_minibatch",
        [
            "W0 = where(position() % 16 == 0, W, W0)",
            "b0 = where(position() % 16 == 0, b, b0)",
            "y = sum(k*W0, K) + b0",
            "c = y - mean(y, V)",
            "n = c*rsqrt(mean(c*c, V) + 1e-6)",
            "e = n*w + bias - (v - rename(k, K=V))",
            "W = W - eta*k*e",
            "b = b - eta*e",
        ],
        {"eta": "[H]"},
        states={"W": "[H, K, V]", "b": "[H, V]", "W0": "[H, K, V]", "b0": "[H, V]"},
        output={"o": "sum(q*W, K) + b"},
        parameters={"w": "[H, V]", "bias": "[H, V]"},
        axes={"H": "4", "K": "64", "V": "{same_as: K}"},
    ),
    "titans": qkv(
        "titans",
        ["M = eta*M - th*k*(sum(k*S, K) - v)", "S = (1 - al)*S + M"],
        {"eta": "[H]", "th": "[H]", "al": "[H]"},
        states={"M": "[H, K, V]", "S": "[H, K, V]"},
    ),
    "momentum": qkv(
        "momentum",
        ["M = eta*M + k*v", "S = S + M"],
        {"eta": "[H]"},
        states={"M": "[H, K, V]", "S": "[H, K, V]"},
    ),
    "second_order": qkv(
        "second_order",
        "S = S + k*rename(k, K=J)*v",
        states={"S": "[H, K, J, V]"},
        output={"o": "sum(sum(q*rename(q, K=J)*S, K), J)"},
        axes={"H": "2", "K": "8", "J": "{same_as: K}", "V": "16"},
    ),
}


def recurrence(name: str) -> Recurrence:
    return lower(parse_spec(SPECS[name], f"{name}.yaml"))


def from_text(text: str) -> Recurrence:
    return lower(parse_spec(textwrap.dedent(text), "spec.yaml"))
