"""Every mistake in ``cases/*.yaml`` gives exactly the message in the ``.txt`` beside it.

``SEQGEN_ACCEPT=1 pytest tests/errors`` rewrites the messages; read the difference before you
commit it.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from seqgen.errors import SpecError
from seqgen.gpu.table import find_gpu
from seqgen.passes.lower import lower
from seqgen.passes.structure import analyse
from seqgen.plan.choose import choose_schedule
from seqgen.plan.schedule_text import check_schedule
from seqgen.spec.loader import parse_spec

CASES = Path(__file__).parent / "cases"


@pytest.mark.parametrize("path", sorted(CASES.glob("*.yaml")), ids=lambda path: path.stem)
def test_message(path: Path) -> None:
    with pytest.raises(SpecError) as caught:
        spec = parse_spec(path.read_text(encoding="utf-8"), path.name)
        recurrence = lower(spec)
        structure = analyse(recurrence, spec.require_span)
        check_schedule(spec, structure, choose_schedule(recurrence, structure, find_gpu("h100")))
    message = f"{caught.value}\n"
    expected = path.with_suffix(".txt")
    if os.environ.get("SEQGEN_ACCEPT"):
        expected.write_text(message, encoding="utf-8")
    assert message == expected.read_text(encoding="utf-8")


def test_every_message_has_a_case() -> None:
    assert {path.stem for path in CASES.glob("*.txt")} == {p.stem for p in CASES.glob("*.yaml")}
