"""Expected splits: section 9 of the reference, restricted to grids without communication."""

import pytest
from operator_table import SPECS, from_text, recurrence

from seqgen.passes.axes import split_axes

# name -> grid, coupled
EXPECTED = {
    "linear_attention": ("H V", "K"),
    "normalised": ("H V", "K"),
    "retnet": ("H V", "K"),
    "gla": ("H V", "K"),
    "rwkv6": ("H V", "K"),
    "hgrn": ("D", ""),
    "mamba2": ("H P", "N"),
    "mamba1": ("D", "N"),
    "gated_deltanet": ("V HV", "K"),
    "delta_product": ("H V", "K"),
    "gated_oja": ("H", "K V"),
    "rwkv7": ("H V", "K"),
    "mamba3": ("H P", "R N"),
    "mlstm": ("H V", "K"),
    "gsa": ("H V", "K M"),
    "preconditioned_gdn": ("V HV", "K"),
    "slstm": ("D", ""),
    "s4d": ("D", "N"),
    "ttt": ("H", "K V"),
    "second_order": ("H V", "K J"),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_grid_and_coupled_axes(name):
    grid, coupled = EXPECTED[name]
    plan = split_axes(recurrence(name))
    assert plan.grid == tuple(grid.split())
    assert plan.coupled == tuple(coupled.split())


@pytest.mark.parametrize("name", SPECS)
def test_every_axis_has_one_place(name):
    rec = recurrence(name)
    plan = split_axes(rec)
    placed = [*plan.grid, *plan.coupled, *(parent for parent, _ in plan.parents)]
    used = {axis for state in rec.states for axis in state.axes}
    assert len(placed) == len(set(placed))
    assert used <= set(placed)


def test_partial_gradients_of_grouped_heads():
    plan = split_axes(recurrence("gated_deltanet"))
    assert plan.parents == (("H", "HV"),)
    assert dict(plan.partial) == {
        "q_in": ("V", "HV"), "k_in": ("V", "HV"), "g": ("V",), "beta": ("V",),
    }  # fmt: skip
    assert plan.once == ()


def test_states_without_a_grid_axis_are_computed_everywhere():
    plan = split_axes(recurrence("mlstm"))
    assert dict(plan.once) == {"n": ("V",), "m": ("V",)}
    assert dict(plan.partial)["m_prev"] == ("V",)
    assert "C_prev" not in dict(plan.partial)


def test_mamba1_parts_per_group():
    plan = split_axes(recurrence("mamba1"))
    assert plan.parents == (("G", "D"),)
    assert dict(plan.partial) == {"B": ("D",), "C": ("D",)}


def test_a_let_that_nothing_reads_couples_nothing():
    plan = split_axes(recurrence("delta_product"))
    assert "R" not in (*plan.grid, *plan.coupled)


def test_reduction_over_a_child_couples_the_family():
    plan = split_axes(
        from_text("""
        operator: gathered
        axes: {G: 2, D: {groups_of: G, size: 4}}
        inputs: {x: [D], b: [G]}
        state: {h: [D]}
        update: ["h = b*h + x"]
        output: {o: "h / sum(h*h, D)"}
        """)
    )
    assert (plan.grid, plan.coupled) == ((), ("G", "D"))
    assert str(plan) == "grid: -\ncoupled: G, D"
