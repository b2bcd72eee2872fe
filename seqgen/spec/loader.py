"""YAML -> Spec: section by section, every element with its place."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import yaml

from seqgen.errors import Span, SpecError, did_you_mean
from seqgen.spec import checks
from seqgen.spec.expressions import parse_lines, parse_statement
from seqgen.spec.model import (
    Assign,
    AxisDecl,
    Expression,
    OutputDecl,
    Repeat,
    Spec,
    StateDecl,
    TensorDecl,
)
from seqgen.spec.source import Entry, Source, read_text

SECTIONS = [
    *("operator", "about", "axes", "inputs", "parameters", "state"),
    *("let", "update", "output", "scan", "require"),
]

_T = TypeVar("_T")
_Choice = tuple[str, Span] | tuple[None, None]
_ANY: _Choice = (None, None)


def load_spec(path: str | Path) -> Spec:
    """The spec in the YAML file at ``path``.

    Raises:
        UsageError: there is no such file.
        SpecError: the file is no valid spec.
    """
    path = Path(path)
    return parse_spec(read_text(path), str(path))


def parse_spec(text: str, origin: str) -> Spec:
    """The spec in ``text``, which messages call ``origin`` (a path or a name).

    Raises:
        SpecError: the text is no valid spec.
    """
    return _Reader(Source(text, origin)).spec()


class _Reader:
    def __init__(self, source: Source) -> None:
        self.source = source
        self.uses: list[tuple[str, Span]] = []
        """Axes in the order in which tensors and relations name them."""

    def spec(self) -> Spec:
        src = self.source
        root = src.compose()
        if not isinstance(root, yaml.MappingNode):
            raise SpecError(
                "A spec is made of 'section: value' lines.",
                src.span(root),
                hint="Begin with 'operator: name'.",
            )
        sections = self.fields(root, "A spec", SECTIONS)
        if "operator" not in sections:
            raise SpecError("The spec has no 'operator'.", src.span(root), hint="Name it first.")
        name = src.word(sections["operator"].value, "'operator'")
        checks.check_name(name, src.span(sections["operator"].value), "An operator")
        order, chunk = self.scan(sections.get("scan"))
        family, schedule = self.require(sections.get("require"))
        spec = Spec(
            operator=name,
            span=src.span(sections["operator"].value),
            about=self.about(sections.get("about")),
            axes=self.each(sections, "axes", self.axis),
            inputs=self.each(sections, "inputs", lambda e: self.tensor(e, "input")),
            parameters=self.each(sections, "parameters", lambda e: self.tensor(e, "parameter")),
            states=self.each(sections, "state", self.state),
            let=self.each(sections, "let", self.let),
            update=self.update(sections.get("update")),
            outputs=self.each(sections, "output", self.output),
            order=order,
            chunk=chunk,
            require=family[0],
            require_span=family[1],
            require_schedule=schedule[0],
            require_schedule_span=schedule[1],
            origin=Path(src.file).name,
        )
        return checks.complete(spec, self.uses)

    # Helpers --------------------------------------------------------------------------------

    def each(
        self, sections: dict[str, Entry], name: str, read: Callable[[Entry], _T]
    ) -> tuple[_T, ...]:
        """``read`` of every entry of a section; () if the section is absent."""
        if name not in sections:
            return ()
        return tuple(read(e) for e in self.source.entries(sections[name].value, f"'{name}'"))

    def fields(self, node: yaml.Node, what: str, known: list[str]) -> dict[str, Entry]:
        """The entries of a map whose keys are fixed, by key."""
        entries = {entry.key: entry for entry in self.source.entries(node, what)}
        for key, entry in entries.items():
            if key not in known:
                hint = did_you_mean(key, known) or f"Known: {', '.join(known)}."
                if key == "<<":
                    hint = "YAML merge keys are not supported; write the keys in full."
                label = "not a section" if known is SECTIONS else "unknown key"
                raise SpecError(f"{what} has no '{key}'.", entry.key_span, label=label, hint=hint)
        return entries

    def expression(self, node: yaml.Node, what: str) -> Expression:
        self.source.word(node, what)
        assert isinstance(node, yaml.ScalarNode)
        try:
            return parse_lines(self.source.text_lines(node))
        except SpecError as error:
            self.hint_at_quotes(error, node)
            raise

    def hint_at_quotes(self, error: SpecError, node: yaml.ScalarNode) -> None:
        """Inside { } and [ ] a comma ends an unquoted value, in the middle of a call, too."""
        after = self.source.lines[node.end_mark.line][node.end_mark.column :].lstrip()[:1]
        if node.style is None and after == "," and node.value.count("(") > node.value.count(")"):
            error.hint = "Put the expression in quotes: inside { } and [ ] a comma ends it."

    def axes_of(self, node: yaml.Node, what: str) -> tuple[str, ...]:
        src = self.source
        if isinstance(node, yaml.ScalarNode) and node.value:
            raise SpecError(
                f"{what} takes a list of axes.", src.span(node), hint=f"Write [{node.value[:40]}]."
            )
        names = [(src.word(n, "An axis"), src.span(n)) for n in src.items(node, what)]
        checks.check_axes(tuple(names))
        self.uses += names
        return tuple(name for name, _ in names)

    # Sections -------------------------------------------------------------------------------

    def about(self, entry: Entry | None) -> str:
        if entry is None:
            return ""
        return " ".join(self.source.word(entry.value, "'about'").split())

    def axis(self, entry: Entry) -> AxisDecl:
        src, name, span, node = self.source, entry.key, entry.key_span, entry.value
        checks.check_name(name, span, "An axis")
        if isinstance(node, yaml.MappingNode):
            keys = self.fields(node, f"Axis '{name}'", ["groups_of", "same_as", "size"])
            size = src.whole(keys["size"].value, "'size'") if "size" in keys else None
            others = {key: self.other_axis(keys.get(key)) for key in ("groups_of", "same_as")}
            checks.check_relation(name, others["groups_of"], others["same_as"], size, span)
            return AxisDecl(name, span, size, others["groups_of"], others["same_as"])
        text = src.word(node, f"Axis '{name}'")
        if re.fullmatch(r"[\d_]+|[+-].*|[\d.]+|[\d.]+e.*", text):
            size = src.whole(node, f"The size of axis '{name}'")
            checks.check_size(size, name, src.span(node))
            return AxisDecl(name, span, size)
        return AxisDecl(name, span, derived=self.expression(node, f"Axis '{name}'"))

    def other_axis(self, entry: Entry | None) -> str | None:
        if entry is None:
            return None
        name, span = self.source.word(entry.value, f"'{entry.key}'"), self.source.span(entry.value)
        checks.check_name(name, span, "An axis")
        self.uses.append((name, span))
        return name

    def tensor(self, entry: Entry, kind: str) -> TensorDecl:
        src, name, span, node = self.source, entry.key, entry.key_span, entry.value
        what = f"{'An input' if kind == 'input' else 'A parameter'}"
        checks.check_name(name, span, what)
        if not isinstance(node, yaml.MappingNode):
            return TensorDecl(name, self.axes_of(node, f"'{name}'"), span, kind)
        keys = self.fields(node, f"'{name}'", ["axes", "dtype", "range", "optional", "default"])
        bounds, default = None, None
        if "range" in keys:
            values = src.items(keys["range"].value, "'range'")
            numbers = tuple(src.number(value, "A bound of a range") for value in values)
            bounds = checks.check_range(numbers, src.span(keys["range"].value))
        if "default" in keys:
            default = src.number(keys["default"].value, "'default'")
            checks.check_default(default, bounds, src.span(keys["default"].value))
        return TensorDecl(
            name,
            self.long_axes(keys, name, node),
            span,
            kind,
            self.dtype(keys.get("dtype")),
            bounds,
            "optional" in keys and src.truth(keys["optional"].value, "'optional'"),
            default,
        )

    def long_axes(self, keys: dict[str, Entry], name: str, node: yaml.Node) -> tuple[str, ...]:
        if "axes" not in keys:
            raise SpecError(
                f"'{name}' has no 'axes'.", self.source.span(node), hint="Add axes: [...]."
            )
        return self.axes_of(keys["axes"].value, f"'{name}'")

    def dtype(self, entry: Entry | None) -> str | None:
        if entry is None:
            return None
        word = self.source.word(entry.value, "'dtype'")
        checks.check_choice(word, checks.DTYPES, self.source.span(entry.value), "dtype")
        return word

    def state(self, entry: Entry) -> StateDecl:
        src, name, span, node = self.source, entry.key, entry.key_span, entry.value
        checks.check_name(name, span, "A state")
        if not isinstance(node, yaml.MappingNode):
            return StateDecl(name, self.axes_of(node, f"'{name}'"), span)
        keys = self.fields(node, f"'{name}'", ["axes", "dtype", "init"])
        self.dtype(keys.get("dtype"))
        init = 0.0
        if "init" in keys:
            init = src.number(keys["init"].value, "'init'")
            checks.check_init(init, src.span(keys["init"].value))
        return StateDecl(name, self.long_axes(keys, name, node), span, init)

    def let(self, entry: Entry) -> Assign:
        checks.check_name(entry.key, entry.key_span, "A name in 'let'")
        value = self.expression(entry.value, f"'{entry.key}'")
        return Assign(entry.key, value, entry.key_span)

    def update(self, entry: Entry | None) -> tuple[Assign | Repeat, ...]:
        if entry is None:
            return ()
        if isinstance(entry.value, yaml.ScalarNode) and entry.value.value:
            return (self.statement(entry.value),)
        nodes = self.source.items(entry.value, "'update'")
        return tuple(
            self.repeat(node) if isinstance(node, yaml.MappingNode) else self.statement(node)
            for node in nodes
        )

    def repeat(self, node: yaml.MappingNode) -> Repeat:
        src = self.source
        first = src.entries(node, "A statement")[0]
        if first.key not in ("repeat", "do"):
            raise SpecError(
                "A statement is 'name = expression', or a repeat block.",
                first.key_span,
                hint=f"Write '{first.key} = ...' with '=' instead of ':'.",
            )
        keys = self.fields(node, "A repeat block", ["repeat", "do"])
        for key in ("repeat", "do"):
            if key not in keys:
                raise SpecError(
                    f"A repeat block has no '{key}'.",
                    src.span(node),
                    hint='Write {repeat: R, do: ["S = ..."]}.',
                )
        axis = src.word(keys["repeat"].value, "'repeat'")
        span = src.span(keys["repeat"].value)
        checks.check_name(axis, span, "An axis")
        body = src.items(keys["do"].value, "'do'")
        for item in body:
            if isinstance(item, yaml.MappingNode):
                raise SpecError("Repeat blocks cannot be nested.", src.span(item))
        if not body:
            raise SpecError("'do' is empty.", src.span(keys["do"].value))
        return Repeat(axis, tuple(self.statement(item) for item in body), span)

    def statement(self, node: yaml.Node) -> Assign:
        self.source.word(node, "A statement")
        assert isinstance(node, yaml.ScalarNode)
        try:
            return parse_statement(self.source.text_lines(node))
        except SpecError as error:
            self.hint_at_quotes(error, node)
            raise

    def output(self, entry: Entry) -> OutputDecl:
        name, span, node = entry.key, entry.key_span, entry.value
        checks.check_name(name, span, "An output")
        if not isinstance(node, yaml.MappingNode):
            return OutputDecl(name, self.expression(node, f"'{name}'"), span)
        keys = self.fields(node, f"'{name}'", ["value", "axes", "dtype"])
        if "value" not in keys:
            raise SpecError(
                f"'{name}' has no 'value'.", self.source.span(node), hint="Add value: expression."
            )
        axes = self.axes_of(keys["axes"].value, f"'{name}'") if "axes" in keys else None
        value = self.expression(keys["value"].value, "'value'")
        return OutputDecl(name, value, span, axes, self.dtype(keys.get("dtype")))

    def scan(self, entry: Entry | None) -> tuple[str, int | None]:
        if entry is None:
            return "forward", None
        src = self.source
        keys = self.fields(entry.value, "'scan'", ["order", "chunk"])
        order, chunk = "forward", None
        if "order" in keys:
            order = src.word(keys["order"].value, "'order'")
            checks.check_choice(order, checks.ORDERS, src.span(keys["order"].value), "order")
        if "chunk" in keys and src.word(keys["chunk"].value, "'chunk'") != "auto":
            chunk = src.whole(keys["chunk"].value, "A chunk length")
            checks.check_chunk(chunk, src.span(keys["chunk"].value))
        return order, chunk

    def require(self, entry: Entry | None) -> tuple[_Choice, _Choice]:
        """Family and schedule, each with its place; a single word is the family."""
        if entry is None:
            return _ANY, _ANY
        if not isinstance(entry.value, yaml.MappingNode):
            return self.choice(entry.value, "'require'", "family", checks.FAMILIES), _ANY
        keys = self.fields(entry.value, "'require'", ["family", "schedule"])
        family, schedule = (
            self.choice(keys[key].value, f"'{key}'", key, words) if key in keys else _ANY
            for key, words in (("family", checks.FAMILIES), ("schedule", checks.SCHEDULES))
        )
        return family, schedule

    def choice(self, node: yaml.Node, what: str, kind: str, words: tuple[str, ...]) -> _Choice:
        """A word that is one of ``words``, and its place."""
        word, span = self.source.word(node, what), self.source.span(node)
        checks.check_choice(word, words, span, kind)
        return word, span
