"""Tests of generated kernels in Triton's interpreter.

Triton decides when it is imported whether kernels are interpreted, so these tests need a process
of their own: ``tests/test_interpreted.py`` starts it. By hand:
``TRITON_INTERPRET=1 pytest tests/interpreted``.
"""

import os

if os.environ.get("TRITON_INTERPRET") != "1":
    collect_ignore_glob = ["test_*.py"]
else:
    import numpy
    import torch
    import triton.language as tl
    from triton.runtime import interpreter

    patch_tensor = interpreter._patch_lang_tensor

    def patch_and_mend(tensor, scope):
        """NumPy 2.4 refuses int() of one-element arrays; loop bounds are such arrays."""
        patch_tensor(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

    interpreter._patch_lang_tensor = patch_and_mend
    patch_language = interpreter._patch_lang

    def patch_once_a_launch(function):
        """Triton also patches at each call inside of a kernel, for a third of the whole time."""
        languages = [m for m in function.__globals__.values() if m is tl or m is tl.core]
        patched = (tl.tensor.__add__, *(language.load for language in languages))
        if any(map(tl.core.is_builtin, patched)):
            return patch_language(function)
        return interpreter._LangPatchScope()

    interpreter._patch_lang = patch_once_a_launch
    convert = interpreter._convert_float

    def convert_and_round(values, source, target, rounding):
        """The interpreter cuts bf16 off; GPUs round to the nearest."""
        if source != tl.float32 or target != tl.bfloat16:
            return convert(values, source, target, rounding)
        # Raw bits may come in an array of integers.
        wide = torch.from_numpy(numpy.ascontiguousarray(values).view(numpy.float32))
        bits = wide.to(torch.bfloat16).view(torch.int16).numpy().view(numpy.uint16)
        return bits.reshape(values.shape)

    interpreter._convert_float = convert_and_round
