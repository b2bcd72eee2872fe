"""``seqgen db``: look at the tuning store, exchange its records, pin a configuration."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]


def add_db_commands(commands: Commands) -> None:
    """Add ``db`` and what is below it."""
    db = commands.add_parser("db", help="the tuning store: path, show, stats, export, import, pin")
    db.add_argument("--db", metavar="PATH|URL", help="store (default: $SEQGEN_TUNING_DB)")
    parts = db.add_subparsers(dest="part", metavar="PART", required=True)
    parts.add_parser("path", help="print where the store is").set_defaults(run=_path)
    show = parts.add_parser("show", help="what was measured, and what wins")
    show.add_argument("operator", nargs="?")
    show.add_argument("--json", action="store_true")
    show.set_defaults(run=_show)
    parts.add_parser("stats", help="count what the store holds").set_defaults(run=_stats)
    export = parts.add_parser("export", help="write records as JSONL")
    export.add_argument("file", type=Path)
    export.add_argument("--operator")
    export.add_argument("--finals", action="store_true", help="only what decides winners")
    export.set_defaults(run=_export)
    merge = parts.add_parser("import", help="merge a JSONL file of records as seeds")
    merge.add_argument("file", type=Path)
    merge.set_defaults(run=_import)
    for name, text in (("pin", "always use one configuration"), ("unpin", "undo a pin")):
        one = parts.add_parser(name, help=text)
        one.add_argument("record", help="first digits of a record id, from 'db show'")
        one.set_defaults(run=_pin if name == "pin" else _unpin)
    miss = parts.add_parser("why-miss", help="why a build does not find tuned configurations")
    miss.add_argument("spec", type=Path, metavar="SPEC")
    miss.add_argument("--gpu", default="auto", help="GPU name (seqgen gpus)")
    miss.add_argument("--dtype", choices=("bf16", "fp16", "fp32"), default="bf16")
    miss.add_argument("--shape", default="", metavar="SHAPE", help="e.g. B2,T16384,K128")
    miss.set_defaults(run=_why_miss)


def _path(options: argparse.Namespace) -> None:
    from seqgen.store import commands

    print(commands.path(options.db))


def _show(options: argparse.Namespace) -> None:
    from seqgen.store import commands
    from seqgen.store.store import TuningStore

    with TuningStore.open(options.db) as store:
        if options.json:
            print(json.dumps(commands.show_rows(store, options.operator), indent=1))
        else:
            print(commands.show(store, options.operator))


def _stats(options: argparse.Namespace) -> None:
    from seqgen.store import commands
    from seqgen.store.store import TuningStore

    with TuningStore.open(options.db) as store:
        print(commands.stats(store))


def _export(options: argparse.Namespace) -> None:
    from seqgen.store import commands
    from seqgen.store.store import TuningStore

    with TuningStore.open(options.db) as store:
        print(commands.export_file(store, options.file, op=options.operator, finals=options.finals))


def _import(options: argparse.Namespace) -> None:
    from seqgen.store import commands
    from seqgen.store.store import TuningStore

    with TuningStore.open(options.db, must_persist=True) as store:
        print(commands.import_file(store, options.file))


def _pin(options: argparse.Namespace) -> None:
    from seqgen.store import commands
    from seqgen.store.store import TuningStore

    with TuningStore.open(options.db, must_persist=True) as store:
        print(commands.pin(store, options.record))


def _unpin(options: argparse.Namespace) -> None:
    from seqgen.store import commands
    from seqgen.store.store import TuningStore

    with TuningStore.open(options.db, must_persist=True) as store:
        print(commands.unpin(store, options.record))


def _why_miss(options: argparse.Namespace) -> None:
    from seqgen.build import read_spec
    from seqgen.cli_tune import parse_shape
    from seqgen.loading import target_gpu
    from seqgen.store.store import TuningStore
    from seqgen.why_miss import why_miss

    shape = parse_shape(options.shape) if options.shape else {}
    gpu = target_gpu(options.gpu)
    with TuningStore.open(options.db) as store:
        print(why_miss(read_spec(options.spec), gpu, options.dtype, shape, store))
