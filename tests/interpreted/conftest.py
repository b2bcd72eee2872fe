"""Tests of generated kernels in Triton's interpreter.

Triton decides when it is imported whether kernels are interpreted, so these tests need a process
of their own: ``tests/test_interpreted.py`` starts it. By hand:
``TRITON_INTERPRET=1 pytest tests/interpreted``.
"""

import os

if os.environ.get("TRITON_INTERPRET") != "1":
    collect_ignore_glob = ["test_*.py"]
else:
    from triton.runtime import interpreter

    patch_tensor = interpreter._patch_lang_tensor

    def patch_and_mend(tensor, scope):
        """NumPy 2.4 refuses int() of one-element arrays; loop bounds are such arrays."""
        patch_tensor(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

    interpreter._patch_lang_tensor = patch_and_mend
