"""Names of the user that would mean two things in the generated file.

Generated files use the user's own names beside their own (``row``, ``dtype``, ``d_q``). Which
names those are depends on the operator and on the schedule, so there is no list of them: the file
is made once more with a stand-in word for every name of the user. Where a scope of that file has
more names than the same scope of the real one, two of them have become one.
"""

from __future__ import annotations

import re
import symtable
from collections.abc import Iterator, Sequence

from seqgen.errors import SpecError
from seqgen.spec.rename import StandIn

Scope = symtable.SymbolTable


def check_clashes(source: str, stand_in: str, words: Sequence[StandIn]) -> None:
    """Raises if the user's names do not go together with those of the file.

    Args:
        source: the file.
        stand_in: the file with a stand-in for each name of the user.
        words: the stand-ins.

    Raises:
        SpecError: at the declaration of a name that cannot stay.
    """
    names = _Names(words)
    free = _scopes(symtable.symtable(stand_in, "stand-in", "exec"))
    try:
        real: Sequence[Scope | None] = _scopes(symtable.symtable(source, "generated", "exec"))
    except SyntaxError:  # two parameters have become one
        real = [None] * len(free)
    public = {word for word in free[0].get_identifiers() if names.real(word) != word}
    for before, after in zip(free, real, strict=True):
        names.check(before, after, public)
    before_sizes, after_sizes = (set(re.findall(r'sizes\["(\w+)"', t)) for t in (stand_in, source))
    if len(before_sizes) > len(after_sizes):
        raise names.clash(sorted(before_sizes), set())


def _scopes(table: Scope) -> list[Scope]:
    def below(scope: Scope) -> Iterator[Scope]:
        yield scope
        for child in scope.get_children():
            yield from below(child)

    return list(below(table))


class _Names:
    def __init__(self, words: Sequence[StandIn]) -> None:
        self.words = words
        self.names = {w.word: w.name for w in words}
        for w in words:  # the class of the states is called after the operator
            title = "".join(part.capitalize() for part in w.name.split("_"))
            self.names[w.word.capitalize()] = title

    def real(self, word: str) -> str:
        """``word`` with the user's names in it."""
        return re.sub(r"[zZ]z\d+zz", lambda match: self.names[match.group()], word)

    def check(self, before: Scope, after: Scope | None, public: set[str]) -> None:
        """Compares one scope; ``public`` are the module's names that the user's go into."""
        words = list(before.get_identifiers())
        kept = set() if after is None else set(after.get_identifiers())
        if after is None:
            if len({self.real(word) for word in words}) < len(words):
                raise self.clash(words, kept)
            return
        if len(kept) < len(words):
            raise self.clash(words, kept)
        # A builtin or helper that is read here must not be hidden by the operator's functions.
        exposed = {self.real(word): word for word in public}
        for symbol in after.get_symbols():
            word = exposed.get(symbol.get_name())
            if word is not None and symbol.is_global() and word not in words:
                raise self.clash([*words, word], kept)

    def clash(self, words: Sequence[str], kept: set[str]) -> SpecError:
        """The error for the first two of ``words`` that become the same name."""
        seen: dict[str, str] = {}
        for word in words:
            name = self.real(word)
            other = seen.setdefault(name, word)
            if other != word and f"{name}_" not in kept:
                break
        pair = f"{word} {other}".lower()
        guilty = [w for w in self.words if w.word in pair]
        one = next((w for w in guilty if w.name == name), guilty[-1])
        article = "an" if one.what[0] in "aio" else "a"
        return SpecError(
            f"'{one.name}' cannot be the name of {article} {one.what} here.",
            one.span,
            label=f"the generated file uses '{name}' for something else",
            hint="Choose another name.",
        )
