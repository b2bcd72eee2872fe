"""Whatever is done to a spec's text, the answer is a spec or a message, never a traceback."""

from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from seqgen.errors import SeqgenError, SpecError
from seqgen.passes.lower import lower
from seqgen.spec.loader import parse_spec

EXAMPLES = [
    path.read_text() for path in sorted((Path(__file__).parents[2] / "examples").glob("*.yaml"))
]
WORDS = """
    ( ) [ ] { } , : = == * - + / % ** | > & ! # ' " ? @ ` . ~ < --- ... <<: &a *a !!int
    K V H S q k g B T sum exp prev rename repeat do if else not and where softmax rotary index
    position() axes init range default optional inf .inf -.inf .nan 1e-6 0 1_0 0x1 99999999999
    true null groups_of same_as K=V 2*R é
"""
BLANKS = ["\n", "\n  ", "\n- ", " ", "\t", "\x00", "\ufeff", "\u2028", "\x85"]
PIECES = [*WORDS.split(), *BLANKS, ""]


@st.composite
def broken_specs(draw) -> str:
    text = draw(st.sampled_from(EXAMPLES))
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(text)))
        stop = start + draw(st.sampled_from([0, 0, 1, 2, 5, 20]))
        text = text[:start] + draw(st.sampled_from(PIECES)) + text[stop:]
    return text


def check(text: str) -> None:
    try:
        lower(parse_spec(text, "broken.yaml"))
    except SeqgenError as error:
        assert str(error).startswith(error.args[0])
        if isinstance(error, SpecError) and error.span is not None:
            span = error.span
            assert 1 <= span.column <= len(span.source) + 2
            assert span.length >= 1 and span.file == "broken.yaml"


@settings(max_examples=150, deadline=None, derandomize=True)
@given(broken_specs())
def test_broken_specs(text):
    check(text)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.text(max_size=60))
def test_any_text(text):
    check(text)
