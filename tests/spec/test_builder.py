"""The Python builder: the same specs as YAML, and errors at the caller's line."""

from math import inf
from pathlib import Path

import pytest
from plain import plain

from seqgen.errors import SpecError
from seqgen.passes.lower import lower
from seqgen.spec.builder import OperatorBuilder
from seqgen.spec.loader import load_spec, parse_spec

EXAMPLES = Path(__file__).parents[2] / "examples"


def gated_delta_rule() -> OperatorBuilder:
    return (
        OperatorBuilder("gated_delta_rule", "Gated DeltaNet, Yang et al. 2024, arXiv 2412.06464")
        .axes(K=128, V=128)
        .axis("HV", groups_of="H")
        .input("q", "H", "K")
        .input("k", "H", "K")
        .input("v", "HV", "V")
        .input("g", "HV", dtype="float32", range=(-inf, 0))
        .input("beta", "HV")
        .state("S", "HV", "K", "V")
        .let(q="l2norm(q, K) * K ** -0.5", k="l2norm(k, K)")
        .update("S = exp(g) * S", "S = S + beta * k * (v - sum(k * S, K))")
        .output(o="sum(q * S, K)")
    )


def test_the_same_operator_as_the_yaml_example():
    built, read = gated_delta_rule().build(), load_spec(EXAMPLES / "gated_delta_rule.yaml")
    assert plain(built) == plain(read)
    assert lower(built) == lower(read)


def test_every_method_as_in_yaml():
    built = (
        OperatorBuilder("all_of_it")
        .axes(K="2 * R", M=4)
        .axis("V", same_as="K")
        .axis("HV", groups_of="H", size=32)
        .input("q", "H", "K")
        .input("k", "M", "H", "K")
        .input("v", "HV", "V", optional=True, default=1)
        .parameter("theta", "H", "R", range=(-3, 3))
        .parameter("skip", optional=True)
        .state("S", "HV", "K", "V")
        .state("m", "HV", init=-inf)
        .let(w="mean(v, V)")
        .update("m = max(m, w)")
        .repeat("M", "S = S + k * v", "S = S * w")
        .output(o="sum(rotary(q, K, theta, R) * S, K)", axes={"o": ("V", "HV")})
        .output(x="m * (skip if skip else 1)", dtype={"x": "float32"})
        .scan("reverse", chunk=64)
        .require("scan", schedule="chunkwise")
        .build()
    )
    text = """
        operator: all_of_it
        axes: {K: 2 * R, M: 4, V: {same_as: K}, HV: {groups_of: H, size: 32}}
        inputs:
          q: [H, K]
          k: [M, H, K]
          v: {axes: [HV, V], optional: true, default: 1}
        parameters: {theta: {axes: [H, R], range: [-3, 3]}, skip: {axes: [], optional: true}}
        state: {S: [HV, K, V], m: {axes: [HV], init: -.inf}}
        let: {w: "mean(v, V)"}
        update:
          - m = max(m, w)
          - {repeat: M, do: ["S = S + k * v", "S = S * w"]}
        output:
          o: {axes: [V, HV], value: "sum(rotary(q, K, theta, R) * S, K)"}
          x: {value: m * (skip if skip else 1), dtype: float32}
        scan: {order: reverse, chunk: 64}
        require: {family: scan, schedule: chunkwise}
    """
    assert plain(built) == plain(parse_spec(text, "all_of_it.yaml"))


def place(error: SpecError) -> tuple[str, str, str]:
    return Path(error.span.file).name, error.span.source.strip(), error.span.text


def test_an_error_points_at_the_literal_in_this_file():
    builder = gated_delta_rule()
    with pytest.raises(SpecError) as caught:
        lower(
            builder.update("S = S * 2",
                           "S = decay * S").build()
        )  # fmt: skip
    assert caught.value.message == "'decay' is not defined."
    assert place(caught.value) == (Path(__file__).name, '"S = decay * S").build()', "decay")


def test_a_text_that_is_no_literal_is_shown_itself():
    text = " ".join(["S =", "decay", "* S"])
    with pytest.raises(SpecError) as caught:
        lower(gated_delta_rule().update(text).build())
    assert place(caught.value) == (Path(__file__).name, "S = decay * S", "decay")


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda b: OperatorBuilder("my-op"), "An operator cannot be called 'my-op'."),
        (lambda b: b.axes(K=8), "Axis 'K' is given twice."),
        (lambda b: b.axes(N=0), "The size of axis 'N' must be 1 to 65536."),
        (lambda b: b.axes(N=1.5), "The size of axis 'N' is no whole number."),
        (lambda b: b.axis("N", same_as="K", groups_of="H"), "Axis 'N' is either"),
        (lambda b: b.axis("N", same_as="N"), "Axis 'N' cannot be related to itself."),
        (lambda b: b.input("q", "H"), "'q' is given twice."),
        (lambda b: b.input("T", "T"), "An axis cannot be called 'T'."),
        (lambda b: b.input("x", "H", "H"), "Axis 'H' is named twice."),
        (lambda b: b.input("x", "H", dtype="fp8"), "Unknown dtype 'fp8'."),
        (lambda b: b.input("x", "H", range=(1, 0)), "This range is empty: 1 is more than 0."),
        (lambda b: b.parameter("x", "H", default=inf), "A default is a finite number."),
        (lambda b: b.state("m", "H", init=float("nan")), "A state cannot start as NaN."),
        (lambda b: b.let(w="l2norm(v, V"), "This bracket is never closed."),
        (lambda b: b.update("S"), "A statement is 'name = expression'."),
        (lambda b: b.update(""), "There is no expression here."),
        (lambda b: b.repeat("R"), "A repeat block is empty."),
        (lambda b: b.output(v="sum(q * S, K)").build(), "'v' is an input and an output."),
        (lambda b: b.scan("sideways"), "Unknown order 'sideways'."),
        (lambda b: b.scan(chunk=48), "A chunk cannot have 48 tokens."),
        (lambda b: b.require("fast"), "Unknown family 'fast'."),
        (lambda b: b.require(schedule="fast"), "Unknown schedule 'fast'."),
        (lambda b: OperatorBuilder("x").build(), "The operator 'x' has no 'inputs'."),
    ],
)
def test_mistakes(build, message):
    with pytest.raises(SpecError) as caught:
        build(gated_delta_rule())
    assert caught.value.message.startswith(message)
    assert Path(caught.value.span.file).name == Path(__file__).name
