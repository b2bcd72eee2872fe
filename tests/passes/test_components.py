"""Components in dependency order, as the reference table has them."""

import pytest
from operator_table import from_text, qkv, recurrence

from seqgen.passes.components import Program, find_components

EXPECTED = {
    "gsa": [("Hk",), ("Hv",)],
    "abc": [("z",), ("Hk",), ("Hv",)],
    "mlstm": [("m",), ("C",), ("n",)],
    "mamba3": [("th",), ("S",)],
    "s4d": [("hr", "hi")],
    "titans": [("M", "S")],
    "ttt_minibatch": [("W", "b", "W0", "b0")],
}


@pytest.mark.parametrize("name", EXPECTED)
def test_components(name):
    assert list(find_components(Program(recurrence(name)))) == EXPECTED[name]


@pytest.mark.parametrize(
    ("update", "expected"),
    [
        (["M = M + k*v", "S = S + M"], [("M", "S")]),  # the whole matrix is taken
        (["M = M + k*v", "S = S + k*sum(q*M, K)"], [("M",), ("S",)]),  # a contraction of it
        (["M = M + k*v", "m = tanh(M)", "S = S + m"], [("M", "S")]),  # through a local
        (["M = M + k*v + prev(S)", "S = S + k*sum(k*M, K)"], [("M", "S")]),
    ],
)
def test_a_whole_matrix_joins(update, expected):
    states = {"M": "[H, K, V]", "S": "[H, K, V]"}
    program = Program(from_text(qkv("op", update, states=states)))
    assert list(find_components(program)) == expected


def test_versions_of_a_state():
    program = Program(recurrence("gated_deltanet"))
    assert program.versions == {"S": ("S_prev", "S_1", "S")}
    assert program.states_read("S_1") == {"S"}
