"""YAML -> Spec: what each form of the language means, and files that are no specs at all."""

import math
from pathlib import Path

import pytest

from seqgen.errors import SpecError, UsageError
from seqgen.passes.lower import lower
from seqgen.spec.loader import load_spec, parse_spec
from seqgen.spec.model import Repeat
from seqgen.spec.source import MAX_BYTES

DEMO = """\
operator: demo
axes:   {K: 8, V: 8}
inputs: {q: [H, K], k: [H, K], v: [H, V], g: [H]}
state:  {S: [H, K, V]}
update: ["S = exp(g) * S + k * v"]
output: {o: "sum(q * S, K)"}
"""

EVERYTHING = """\
operator: everything
about: >
  Two lines
  of prose.
axes:
  K: 2*R
  V: {same_as: K}
  HV: {groups_of: H, size: 32}
  M: 4
inputs:
  q: [H, K]
  k: [M, H, K]
  y: {axes: [HV, V], dtype: float32, range: [-.inf, 1.5]}
  z: {axes: [HV, V], optional: true, default: -1e-3}
parameters:
  no: {axes: [], default: 2}
  theta: [H, R]
state:
  S: [HV, K, V]
  m: {axes: [HV], dtype: float32, init: -.inf}
let:
  g: logsigmoid(
       mean(y, V))
update:
  - m = max(m, g)
  - repeat: M
    do:
      - |
        S = exp(g - m) * S
            + k * y
  - {repeat: M, do: ["S = S * 2"]}
  - "S = S * no"
output:
  o: {axes: [V, HV], value: "sum(rotary(q, K, theta, R) * S, K)", dtype: float32}
  x: m * mean(z, V)
scan: {order: reverse, chunk: 64}
require: scan
"""


def test_every_form():
    spec = parse_spec(EVERYTHING, "some/where/everything.yaml")
    assert (spec.operator, spec.about) == ("everything", "Two lines of prose.")
    assert spec.origin == "everything.yaml"
    axes = {axis.name: axis for axis in spec.axes}
    assert list(axes) == ["K", "V", "HV", "M", "H", "R"]
    assert axes["K"].derived.text == "2*R" and axes["V"].same_as == "K"
    assert (axes["HV"].groups_of, axes["HV"].size, axes["M"].size) == ("H", 32, 4)
    assert (axes["H"].size, axes["R"].size) == (16, 16)  # named by use only
    q, _k, y, z = spec.inputs
    assert (q.axes, q.dtype, q.range, q.optional, q.default) == (
        ("H", "K"),
        None,
        None,
        False,
        None,
    )
    assert (y.dtype, y.range) == ("float32", (-math.inf, 1.5))
    assert (z.optional, z.default) == (True, -1e-3)
    no, theta = spec.parameters
    assert (no.axes, no.default, no.kind, theta.kind) == ((), 2.0, "parameter", "parameter")
    assert [(s.name, s.axes, s.init) for s in spec.states] == [
        ("S", ("HV", "K", "V"), 0.0),
        ("m", ("HV",), -math.inf),
    ]
    assert [(a.target, a.value.text) for a in spec.let] == [("g", "logsigmoid( mean(y, V))")]
    first, block, flow, last = spec.update
    assert isinstance(block, Repeat) and isinstance(flow, Repeat)
    assert (first.target, first.value.text) == ("m", "max(m, g)")
    assert (block.axis, block.body[0].value.text) == ("M", "exp(g - m) * S + k * y")
    assert [a.value.text for a in flow.body] == ["S * 2"]
    assert (last.target, last.value.text) == ("S", "S * no")
    o, x = spec.outputs
    assert (o.axes, o.dtype, x.axes) == (("V", "HV"), "float32", None)
    assert (spec.order, spec.chunk, spec.require) == ("reverse", 64, "scan")
    assert lower(spec).reverse


def test_places_are_those_of_the_file():
    spec = parse_spec(EVERYTHING, "f.yaml")
    lines = EVERYTHING.splitlines()

    def text(span):
        assert span.source == lines[span.line - 1]
        return span.line, span.text

    assert text(spec.span) == (1, "everything")
    assert text(spec.axes[2].span) == (8, "HV")
    assert text(spec.axes[0].derived.span) == (6, "2*R")
    assert text(spec.inputs[2].span) == (13, "y")
    assert text(spec.let[0].value.span) == (22, "logsigmoid(")
    assert [text(line) for line in spec.update[1].body[0].value.lines] == [
        (29, "exp(g - m) * S"),
        (30, "+ k * y"),
    ]
    assert text(spec.update[3].span) == (32, "S")
    assert text(spec.update[3].value.span) == (32, "S * no")
    assert text(spec.outputs[0].value.span) == (34, "sum(rotary(q, K, theta, R) * S, K)")
    assert text(spec.require_span) == (37, "scan")


@pytest.mark.parametrize("newline", ["\r\n", "\r", "\u2028"])
def test_line_breaks_and_byte_order_marks_do_not_move_the_caret(newline):
    bad = "\ufeff" + DEMO.replace("exp(g)", "exp(w)").replace("\n", newline)
    with pytest.raises(SpecError) as caught:
        lower(parse_spec(bad, "f.yaml"))
    assert (caught.value.span.line, caught.value.span.column) == (5, 19)
    assert caught.value.span.text == "w"


def test_words_that_yaml_takes_for_booleans_are_names():
    text = DEMO.replace("g:", "on:").replace("exp(g)", "exp(on)").replace("{o:", "{y:")
    spec = parse_spec(text.replace("K", "N"), "f.yaml")
    assert spec.inputs[3].name == "on"
    assert spec.outputs[0].name == "y"
    assert spec.axes[0].name == "N"


def test_one_statement_needs_no_list():
    text = DEMO.replace('["S = exp(g) * S + k * v"]', "S = exp(g) * S + k * v")
    assert [a.target for a in parse_spec(text, "f.yaml").update] == ["S"]


def test_an_operator_of_taps_needs_no_state():
    text = "operator: tap\ninputs: {x: [D]}\noutput: {y: x + prev(x)}\n"
    assert [state.name for state in lower(parse_spec(text, "f.yaml")).states] == ["prev_x"]


# Files ------------------------------------------------------------------------------------------


def write(folder: Path, data: bytes) -> Path:
    path = folder / "spec.yaml"
    path.write_bytes(data)
    return path


def test_a_file_is_read_with_its_path_in_messages(tmp_path):
    path = write(tmp_path, b"\xef\xbb\xbf" + DEMO.encode().replace(b"\n", b"\r\n"))
    assert load_spec(path).origin == "spec.yaml"
    assert load_spec(str(path)).span.file == str(path)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty."),
        (b"# only a comment\n\n", "is empty."),
        (b"operator: demo\x00\n", "is not a text file (line 1 has the character U+0000)."),
        (b"\x89PNG\r\n\x1a\n\x00", "is not a text file (byte 0 is not UTF-8)."),
        (DEMO.encode("utf-16"), "is not a text file (byte 0 is not UTF-8)."),
        (b"about: caf\xe9\n", "is not a text file (byte 10 is not UTF-8)."),
        (b"[" * 20000, "is nested too deeply; a spec has few levels."),
        (b"a: {" * 20000, "is nested too deeply; a spec has few levels."),
        (b"#" * (MAX_BYTES + 1), "is larger than 256 KiB; a spec is a short text."),
    ],
    ids=["empty", "comment", "nul", "png", "utf16", "latin1", "lists", "maps", "huge"],
)
def test_files_that_are_no_text_of_ours(tmp_path, data, message):
    path = write(tmp_path, data)
    with pytest.raises(SpecError) as caught:
        load_spec(path)
    assert caught.value.message == f"{path} {message}"
    assert caught.value.exit_status == 2


def test_the_largest_file_is_read(tmp_path):
    data = DEMO.encode()
    path = write(tmp_path, data + b"#" * (MAX_BYTES - len(data)))
    assert load_spec(path).operator == "demo"


def test_a_missing_file_names_its_neighbour(tmp_path):
    write(tmp_path, DEMO.encode())
    with pytest.raises(UsageError) as caught:
        load_spec(tmp_path / "spce.yaml")
    assert str(caught.value) == (
        f"There is no file {tmp_path / 'spce.yaml'}.\n  Hint: Did you mean 'spec.yaml'?"
    )
    with pytest.raises(UsageError) as caught:
        load_spec(tmp_path / "no_folder" / "spec.yaml")
    assert str(caught.value) == f"There is no file {tmp_path / 'no_folder' / 'spec.yaml'}."
    with pytest.raises(UsageError, match="There is no file"):
        load_spec(tmp_path / "spec.yaml" / "spec.yaml")


def test_a_folder_is_no_spec(tmp_path):
    path = write(tmp_path, DEMO.encode())
    with pytest.raises(UsageError) as caught:
        load_spec(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path} is a folder, not a spec.\n  Hint: Name a file in it, such as {path}."
    )


@pytest.mark.parametrize("path", ["a\x00b", "x" * 5000])
def test_paths_that_cannot_be(path):
    with pytest.raises(UsageError, match="Cannot read"):
        load_spec(path)


def test_a_very_long_line_is_shown_around_the_caret():
    text = DEMO.replace("axes:   {", "axes:   {" + " " * 5000 + "K2: 0, ")
    with pytest.raises(SpecError) as caught:
        parse_spec(text, "f.yaml")
    lines = str(caught.value).splitlines()
    assert max(len(line) for line in lines) < 200
    assert lines[2][lines[3].index("^")] == "0"
