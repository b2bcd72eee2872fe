"""seqgen's operators under the names and arguments of flash-linear-attention.

A model runs on them by changing an import: ``from seqgen.compat.fla import chunk_gla``. Operators
are built at their first use. ``docs/compat-fla.md`` says which arguments are refused.
"""

from seqgen.compat.fla.delta import (
    chunk_comba,
    chunk_delta_rule,
    chunk_gated_delta_rule,
    fused_recurrent_comba,
    fused_recurrent_delta_rule,
    fused_recurrent_gated_delta_rule,
)
from seqgen.compat.fla.dplr import (
    chunk_dplr_delta_rule,
    chunk_iplr_delta_rule,
    chunk_rwkv7,
    fused_mul_recurrent_rwkv7,
    fused_recurrent_dplr_delta_rule,
    fused_recurrent_iplr_delta_rule,
    fused_recurrent_rwkv7,
)
from seqgen.compat.fla.gated import (
    chunk_gla,
    chunk_hgrn,
    chunk_rwkv6,
    fused_recurrent_gla,
    fused_recurrent_hgrn,
    fused_recurrent_rwkv6,
)
from seqgen.compat.fla.kda import chunk_kda, fused_recurrent_kda
from seqgen.compat.fla.linear import (
    chunk_lightning_attn,
    chunk_linear_attn,
    chunk_retention,
    chunk_simple_gla,
    fused_recurrent_lightning_attn,
    fused_recurrent_linear_attn,
    fused_recurrent_retention,
    fused_recurrent_simple_gla,
)

chunk_gdn = chunk_gated_delta_rule
fused_recurrent_gdn = fused_recurrent_gated_delta_rule

__all__ = [
    "chunk_comba",
    "chunk_delta_rule",
    "chunk_dplr_delta_rule",
    "chunk_gated_delta_rule",
    "chunk_gdn",
    "chunk_gla",
    "chunk_hgrn",
    "chunk_iplr_delta_rule",
    "chunk_kda",
    "chunk_lightning_attn",
    "chunk_linear_attn",
    "chunk_retention",
    "chunk_rwkv6",
    "chunk_rwkv7",
    "chunk_simple_gla",
    "fused_mul_recurrent_rwkv7",
    "fused_recurrent_comba",
    "fused_recurrent_delta_rule",
    "fused_recurrent_dplr_delta_rule",
    "fused_recurrent_gated_delta_rule",
    "fused_recurrent_gdn",
    "fused_recurrent_gla",
    "fused_recurrent_hgrn",
    "fused_recurrent_iplr_delta_rule",
    "fused_recurrent_kda",
    "fused_recurrent_lightning_attn",
    "fused_recurrent_linear_attn",
    "fused_recurrent_retention",
    "fused_recurrent_rwkv6",
    "fused_recurrent_rwkv7",
    "fused_recurrent_simple_gla",
]
