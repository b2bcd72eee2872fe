"""Random specs, as YAML text: small, valid, and bounded enough for a few tokens in float64."""

from __future__ import annotations

import re
import textwrap

from hypothesis import strategies as st

from seqgen.ir.recurrence import Recurrence
from seqgen.passes.lower import lower
from seqgen.spec.loader import parse_spec

# Every axis that random specs use: groups, a twin, a derived size and a micro-step axis.
AXES = {
    "H": "2",
    "HV": "{groups_of: H, size: 4}",
    "K": "2",
    "J": "{same_as: K}",
    "V": "3",
    "R": "2",
    "N": "2*R",
    "M": "2",
}
INPUTS = {
    "xh": ["H"],
    "xhv": ["HV"],
    "xk": ["K"],
    "xj": ["J"],
    "xv": ["V"],
    "xr": ["R"],
    "xn": ["N"],
    "xhk": ["H", "K"],
    "xhvv": ["HV", "V"],
    "xs": [],
}
PARAMETERS = {"pk": ["K"], "ph": ["H"], "pv": ["V"], "phk": ["H", "K"], "pn": ["N"]}
OPTIONAL = {"zh": ["H"], "zv": ["V"]}
STEPPED = {"mk": ["M", "K"], "mv": ["M", "V"]}
STATES = [["H", "K", "V"], ["HV", "K", "V"], ["H", "K"], ["V"], ["K", "V"], ["H", "N"], ["K", "J"]]
UNARY = ["tanh", "sigmoid", "sin", "cos", "silu", "softplus", "logsigmoid", "-", "abs", "detach"]

Atoms = dict[str, list[str]]


class _Writer:
    """Writes random expressions with given axes over given atoms."""

    def __init__(self, draw, atoms: Atoms) -> None:
        self.draw = draw
        self.atoms = atoms

    def pick(self, values):
        return self.draw(st.sampled_from(list(values)))

    def subset(self, axes: list[str]) -> list[str]:
        return [axis for axis in axes if self.draw(st.booleans())]

    def expression(self, axes: list[str], depth: int) -> str:
        """Text of an expression with exactly ``axes``."""
        kinds = ["atom"]
        if depth > 0:
            kinds += ["product", "sum", "unary", "bounded", "choice", "extreme", "reduce"]
            kinds += ["quotient", "power"]
            if axes:
                kinds.append("normal")
            if "J" in axes and "K" not in axes:
                kinds.append("rename")
            if "N" in axes and "R" not in axes:
                kinds.append("rotary")
            if "HV" in axes:
                kinds.append("grouped")
            if any(set(a) <= set(axes) for a in OPTIONAL.values()):
                kinds.append("optional")
        return getattr(self, self.pick(kinds))(axes, depth - 1)

    def atom(self, axes, depth):
        names = [name for name, own in self.atoms.items() if set(own) == set(axes)]
        if names:
            return self.pick(names)
        if not axes:
            return self.pick(["0.5", "2", "K ** -0.5"])
        if len(axes) == 1:
            return f"(0.3 + 0.2 * index({axes[0]}))"
        cut = len(axes) // 2
        return f"{self.atom(axes[:cut], 0)} * {self.atom(axes[cut:], 0)}"

    def product(self, axes, depth):
        left = self.subset(axes)
        right = [a for a in axes if a not in left] + self.subset(left)
        return f"({self.expression(left, depth)}) * ({self.expression(right, depth)})"

    def sum(self, axes, depth):
        sign = self.pick("+-")
        whole, part = self.expression(axes, depth), self.expression(self.subset(axes), depth)
        return f"({whole}) {sign} ({part})"

    def quotient(self, axes, depth):
        below = self.expression(self.subset(axes), depth)
        return f"({self.expression(axes, depth)}) / (1.5 + tanh({below}))"

    def power(self, axes, depth):
        return f"(1.2 + tanh({self.expression(axes, depth)})) ** {self.pick([2, 0.5, -0.5, 1.7])}"

    def unary(self, axes, depth):
        return f"{self.pick(UNARY)}({self.expression(axes, depth)})"

    def bounded(self, axes, depth):
        name = self.pick(["exp", "log1p", "sqrt", "rsqrt", "log", "expm1"])
        return f"{name}(sigmoid({self.expression(axes, depth)}))"

    def extreme(self, axes, depth):
        name = self.pick(["max", "min", "logaddexp"])
        both = [self.expression(axes, depth), self.expression(self.subset(axes), depth)]
        return f"{name}({both[0]}, {both[1]})"

    def choice(self, axes, depth):
        test = f"{self.expression(self.subset(axes), depth)} {self.pick('<>')} 0.1"
        part = self.expression(self.subset(axes), depth)
        return f"where({test}, {self.expression(axes, depth)}, {part})"

    def reduce(self, axes, depth):
        related = {"H": "HV", "HV": "H"}
        free = [a for a in ("K", "V", "N", "H", "HV") if a not in axes]
        free = [a for a in free if related.get(a) not in axes]
        if not free:
            return self.expression(axes, depth)
        axis = self.pick(free)
        return (
            f"{self.pick(['sum', 'mean', 'amax'])}({self.expression([*axes, axis], depth)}, {axis})"
        )

    def normal(self, axes, depth):
        name, axis = self.pick(["softmax", "l2norm"]), self.pick(axes)
        return f"{name}({self.expression(axes, depth)}, {axis})"

    def rename(self, axes, depth):
        other = ["K" if a == "J" else a for a in axes]
        return f"rename({self.expression(other, depth)}, K=J)"

    def rotary(self, axes, depth):
        angle = ["R" if a == "N" else a for a in axes]
        pairs = self.pick(["adjacent", "halves"])
        value = self.expression(axes, depth)
        return f"rotary({value}, N, {self.expression(angle, depth)}, R, {pairs})"

    def grouped(self, axes, depth):
        parent = ["H" if a == "HV" else a for a in axes]
        sign = self.pick("*+")
        return f"({self.expression(axes, depth)}) {sign} ({self.expression(parent, depth)})"

    def optional(self, axes, depth):
        fitting = [name for name, own in OPTIONAL.items() if set(own) <= set(axes)]
        name = self.pick(fitting)
        then = f"({self.expression(axes, depth)}) * {self.pick(UNARY[:6])}({name})"
        return f"({then} if {name} else {self.expression(self.subset(axes), depth)})"


@st.composite
def specs(draw) -> str:
    """YAML of an operator with one or two states, lets, locals and outputs, all random."""
    write = _Writer(draw, {**INPUTS, **PARAMETERS})
    shapes = draw(st.lists(st.sampled_from(STATES), min_size=1, max_size=2))
    states = {f"S{i}": axes for i, axes in enumerate(shapes, 1)}
    lines = ["let:"]
    name = draw(st.sampled_from(["xk", "xhk"]))
    lines.append(f'  {name}: "{draw(st.sampled_from(["l2norm", "softmax"]))}({name}, K)"')
    if draw(st.booleans()):
        write.atoms[f"prev({name})"] = INPUTS[name]
        write.atoms["prev(prev(xv))"] = ["V"]
    for i in range(draw(st.integers(1, 2))):
        axes = draw(st.sampled_from([["H", "K"], ["V"], ["K"], ["N"], ["HV"]]))
        lines.append(f'  l{i}: "{write.expression(axes, 2)}"')
        write.atoms[f"l{i}"] = axes
    lines += ["update:"]
    for name, axes in states.items():
        write.atoms[name] = axes
        write.atoms[f"prev({name})"] = axes
    for i, (name, axes) in enumerate(states.items()):
        if draw(st.booleans()):
            local = draw(st.sampled_from([["V"], ["K"], ["H", "K"]]))
            lines.append(f'  - "n{i} = tanh({write.expression(local, 2)})"')
            write.atoms[f"n{i}"] = local
        decay = write.expression(write.subset(axes), 1)
        lines.append(f'  - "{name} = {name} * sigmoid({decay}) + {write.expression(axes, 2)}"')
        if axes[-2:] == ["K", "V"] and draw(st.booleans()):
            step = f"{name} = {name} + 0.3 * mk * (mv - sum(mk * {name}, K))"
            lines.append(f'  - {{repeat: M, do: ["{step}"]}}')
    lines += ["output:"]
    for i, (name, axes) in enumerate(states.items()):
        rest = draw(st.sampled_from([axes, axes[1:], axes[:-1]]))
        gone = [a for a in axes if a not in rest]
        weight = write.expression(write.subset(axes), 1)
        value = f"{name} * tanh({weight})"
        for axis in gone:
            value = f"sum({value}, {axis})"
        lines.append(f'  o{i}: "{value} + {write.expression(write.subset(rest), 2)}"')
    body = "\n".join(lines)
    made = [name for name in write.atoms if re.fullmatch(r"l\d|n\d|xh?k", name)]
    for name in made:  # what is made must be read
        if f"  {name}: " in body or f'"{name} = ' in body:
            lines.append(f'  u_{name}: "tanh({name})"')
    if draw(st.booleans()):
        lines.append("scan: {order: reverse}")
    return "\n".join([*_declarations("\n".join(lines), states), *lines]) + "\n"


def _declarations(body: str, states: dict[str, list[str]]) -> list[str]:
    """Sections of everything that ``body`` mentions, which must be all that is declared."""
    words = set(re.findall(r"\w+", body))
    lines = ["inputs:"]
    used: list[list[str]] = [*states.values()]
    for name, axes in {**INPUTS, **STEPPED, **OPTIONAL}.items():
        if name in words:
            used.append(axes)
            listed = f"[{', '.join(axes)}]"
            optional = f"{{axes: {listed}, optional: true}}"
            lines.append(f"  {name}: {optional if name in OPTIONAL else listed}")
    parameters = {name: axes for name, axes in PARAMETERS.items() if name in words}
    if parameters:
        lines.append("parameters:")
        lines += [f"  {name}: [{', '.join(axes)}]" for name, axes in parameters.items()]
    lines += ["state:"] + [f"  {name}: [{', '.join(axes)}]" for name, axes in states.items()]
    axes = {axis for group in [*used, *parameters.values()] for axis in group} | words & set(AXES)
    axes |= {"H"} if "HV" in axes else set()
    axes |= {"K"} if "J" in axes else set()
    axes |= {"R"} if "N" in axes else set()
    head = ["operator: random", "axes:"]
    return [*head, *(f"  {a}: {AXES[a]}" for a in AXES if a in axes), *lines]


@st.composite
def matrix_specs(draw) -> str:
    """YAML of an operator with a matrix state that has a normal form, written in some way."""

    def pick(*values):
        return draw(st.sampled_from(values))

    grouped = draw(st.booleans())
    head = "HV" if grouped else "H"
    erase = pick("none", "none", "delta", "delta", "dplr", "two")
    family = "linear" if erase == "none" else "erase"
    old = erase in ("dplr", "two") and draw(st.booleans())
    sides = ["none", "scalar", "key"] if old else ["none", "scalar", "key", "value", "both"]
    side = draw(st.sampled_from(sides))
    shapes = {"scalar": [head], "key": [head, "K"], "value": [head, "V"], "both": [head, "K"]}
    inputs = {"q": ["H", "K"], "k": ["H", "K"], "v": [head, "V"]}
    let, lines = [], []
    factors = []
    if side != "none":
        inputs["g"] = shapes[side]
        factors.append(pick("exp(g)", "sigmoid(g)", "(1 - sigmoid(g))", "exp(l)"))
        if factors[-1] == "exp(l)":
            let.append('  l: "-softplus(g) * 0.5"')
        if draw(st.booleans()):
            inputs["ga"] = [head]
            factors.append("exp(ga)")
    if side == "both":
        inputs["gv"] = [head, "V"]
        factors.append("exp(gv)")
    decay = " * ".join(factors) or "1"
    key = pick("k", "beta * k", "k * beta")
    if "beta" in key:
        inputs["beta"] = [head]
    if draw(st.booleans()):
        let.append('  k: "l2norm(k, K)"')
    inner = "S" if old or not factors else f"{decay} * S"
    whole = "S" if not factors else f"{decay} * S"
    split = draw(st.booleans()) and not old and bool(factors)
    if split:
        lines.append(f'  - "S = {whole}"')
        inner = whole = "S"
    if erase == "none":
        text = f"{whole} + {key} * v"
        if draw(st.booleans()):
            inputs["k2"], inputs["v2"] = ["H", "K"], [head, "V"]
            text += " - k2 * v2 * 0.5"
        lines.append(f'  - "S = {text}"')
    elif erase == "delta":
        inputs["r"] = ["H", "K"]
        row = pick("k", "r", "(k * r)")
        if row == "k":
            del inputs["r"]
        lines.append(f'  - "S = {whole} + {key} * (v - sum({row} * ({inner}), K))"')
    else:
        inputs["a"], inputs["b"] = ["H", "K"], ["H", "K"]
        text = f"{whole} + 0.5 * b * sum(a * ({inner}), K) + {key} * v"
        if erase == "two":
            inputs["c"] = ["H", "K"]
            text += f" - 0.5 * k * sum(c * ({inner}), K)"
        lines.append(f'  - "S = {text}"')
    states = {"S": [head, "K", "V"]}
    read = pick("sum(q * S, K)", "sum(q * prev(S), K)", "sum(q * (prev(S) + S), K)",
                "sum(w * S, V)", "sum(q * S, K) * K ** -0.5")  # fmt: skip
    if "w *" in read:
        inputs["w"] = [head, "V"]
        del inputs["q"]
    outputs = [f'  o: "{read}"']
    if "q" in inputs and family == "linear" and draw(st.booleans()):
        states["z"] = ["H", "K"]
        lines.append('  - "z = 0.5 * z + k"')
        outputs = [f'  o: "{read} / (1.5 + tanh(sum(q * z, K)))"']
    if "q" in inputs and draw(st.booleans()):
        outputs.append('  p: "amax(sum(q * S, K), V)"')
    axes = ["H", "K", "V", *(["HV"] if grouped else [])]
    text = ["operator: random", "axes:", *(f"  {a}: {AXES[a]}" for a in AXES if a in axes)]
    text += ["inputs:", *(f"  {n}: [{', '.join(own)}]" for n, own in inputs.items())]
    text += ["state:", *(f"  {n}: [{', '.join(own)}]" for n, own in states.items())]
    text += (["let:", *let] if let else []) + ["update:", *lines, "output:", *outputs]
    if draw(st.booleans()):
        text.append("scan: {order: reverse}")
    return "\n".join(text) + "\n"


@st.composite
def staged_specs(draw) -> str:
    """YAML of an operator with an earlier state E, and a matrix state S that depends on it."""
    names = draw(st.sampled_from([["xh", "xk", "xhk", "xv", "xs"], ["xk", "xhk", "xv", "phk"]]))
    write = _Writer(draw, {n: {**INPUTS, **PARAMETERS}[n] for n in names})
    own = draw(st.sampled_from([["H"], ["H", "K"], ["K"], ["H", "V"]]))
    states = {"E": own, "S": ["H", "K", "V"]}
    if draw(st.booleans()):
        write.atoms["prev(xhk)"] = ["H", "K"]
    lines = ["update:", f'  - "E = E * sigmoid({write.expression(own, 1)}) + {write.atom(own, 0)}"']
    write.atoms |= {"E": own, "prev(E)": own}
    for name, axes in {"n1": draw(st.sampled_from([["H"], ["H", "K"]])), "n2": ["V"]}.items():
        lines.append(f'  - "{name} = exp(-softplus({write.expression(axes, 2)}))"')
        write.atoms[name] = axes
    key, value = write.expression(["H", "K"], 1), write.expression(["H", "V"], 1)
    lines.append(f'  - "S = n1 * S + ({key}) * tanh({value})"')
    query, after = write.expression(["H", "K"], 2), write.expression(["V"], 2)
    lines += ["output:", f'  o: "sum(({query}) * S, K) * n2 + tanh({after})"']
    lines.append(f'  p: "E * ({write.expression(own, 1)})"')
    lines += [f'  u_{n}: "tanh({n})"' for n in ("xhk", "xk") if draw(st.booleans())]
    return "\n".join([*_declarations("\n".join(lines), states), *lines]) + "\n"


def recurrence_of(text: str) -> Recurrence:
    return lower(parse_spec(textwrap.dedent(text), "random.yaml"))
