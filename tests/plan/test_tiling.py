"""How axes map to programs, as texts."""

import pytest
from operator_table import from_text, recurrence

from seqgen.passes.stages import cut_stages
from seqgen.passes.structure import analyse
from seqgen.plan.tiling import plan_tiling, split_index


def names(tiling):
    return (
        [dim.axis for dim in tiling.dims],
        [knob for knob, _, _ in tiling.knobs],
        [factor.name for factor in tiling.factors],
    )


@pytest.mark.parametrize(
    ("name", "dims", "knobs", "factors"),
    [
        ("linear_attention", ["K", "V"], ["BV"], ["i_H", "b_V"]),
        ("gated_deltanet", ["K", "V"], ["BV"], ["i_H", "j_HV", "b_V"]),
        ("mamba1", ["D", "N"], ["BD"], ["i_G", "b_D"]),
        ("hgrn", ["D"], ["BD"], ["b_D"]),
        ("titans", ["K", "V"], ["BV"], ["i_H", "b_V"]),
        ("gated_oja", ["K", "V"], [], ["i_H"]),
        ("gsa", ["K", "M", "V"], ["BV"], ["i_H", "b_V"]),
    ],
)
def test_axes_of_programs(name, dims, knobs, factors):
    assert names(plan_tiling(recurrence(name))) == (dims, knobs, factors)


def test_heads_are_cut_only_where_nothing_lies_behind():
    """A program for each P would compute all angles again."""
    op = recurrence("mamba3")
    front = cut_stages(op, analyse(op)).front
    assert names(plan_tiling(front)) == (["R", "N", "P"], ["BP"], ["i_H", "b_P"])


def test_places_in_memory():
    tiling = plan_tiling(recurrence("gated_deltanet"))
    assert tiling.offset(("HV", "K", "V"), ("HV", "K", "V")) == (
        "i_HV * (K * V) + o_K[:, None] * V + o_V[None, :]"
    )
    assert tiling.offset(("H", "K"), ("H", "K")) == "i_H * K + o_K"
    assert tiling.mask(("HV", "K", "V")) == (
        "m_K[:, None] & m_V[None, :]",
        "EXACT_K and EXACT_V",
    )


def test_parts_of_gradients():
    """A leaf on H lacks the place in the group and the block of V; one on HV only the block."""
    tiling = plan_tiling(recurrence("gated_deltanet"))
    blocks = "((V + BV - 1) // BV)"
    assert split_index(tiling.missing(("H", "K"))) == (
        f"j_HV * {blocks} + b_V",
        f"(HV // H) * {blocks}",
    )
    assert split_index(tiling.missing(("HV",))) == ("b_V", blocks)
    assert split_index(tiling.missing(("HV", "K", "V"))) == ("0", "1")


def test_a_block_never_leaves_its_group():
    tiling = plan_tiling(recurrence("mamba1"))
    block = tiling.any("D")
    assert block.lines == (
        "o_D = b_D * BD + tl.arange(0, BD)",
        "m_D = o_D < (D // G)",
        "o_D += i_G * (D // G)",
        "EXACT_D: tl.constexpr = (D // G) % BD == 0",
    )


def test_heads_of_large_vectors_are_not_cut_into_blocks():
    text = """
        operator: vectors
        axes: {{H: 4, K: {size}}}
        inputs: {{k: [H, K]}}
        state: {{z: [H, K]}}
        update: ["z = 0.5*z + k"]
        output: {{o: "sum(z*k, K)"}}
        """
    assert names(plan_tiling(from_text(text.format(size=128))))[1] == []
    assert names(plan_tiling(from_text(text.format(size=16))))[1] == ["BH"]
