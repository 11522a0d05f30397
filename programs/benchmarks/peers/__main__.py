"""Run the cells that are missing, then show the tables of those that are there."""

from __future__ import annotations

import argparse
import logging
import sys
import time
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import dspy

from programs.benchmarks.peers import fitting, methods
from programs.benchmarks.peers.bench import Bench, Cell
from programs.benchmarks.peers.elsewhere import Places
from programs.benchmarks.peers.figures import Table, keep, read
from programs.benchmarks.peers.setting import Setting
from programs.benchmarks.peers.suite import QUICK, SUITE, Target, listed
from programs.benchmarks.peers.tables import markdown, write
from programs.benchmarks.peers.unseen import unseen
from tp_dspy import Task

_HELD_OUT = "one more target, from train, validation and test files in a folder, and its source tasks; may be repeated"
_MAIN = ("original", "by_hand", "general", "opro", "copro", "miprov2", "gepa", "simba", "capo", "scratch", "at_hand")


def main() -> None:
    """Run it."""
    args = _arguments()
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    targets = [t for t in (QUICK if args.quick else SUITE) if not args.target or t.name in args.target]
    found = [unseen(given) for given in args.held_out]
    targets += [target for target, _ in found]
    if "by_hand" in args.methods and any(not target.by_hand for target in targets):
        raise SystemExit("Nobody wrote a prompt for what --held-out names: leave by_hand out of --methods.")
    settings = [
        Setting(lm, args.reference_lm or lm, args.budget, args.replies, args.examples, args.test) for lm in args.lm
    ]
    if not args.table:
        _run(args, settings, targets, {target.name: listed(task) for target, task in found})
    for setting in settings:
        _show(args, setting, targets)


def _show(args: argparse.Namespace, setting: Setting, targets: list[Target]) -> None:
    """Show and write the tables of an LM."""
    place = args.cells if args.table and args.cells else args.out / setting.key
    cells = read(place) if place.exists() else []
    shown = {target.name for target in targets}
    table = Table([cell for cell in cells if cell["target"] in shown], args.methods)
    if not table.blocks:
        raise SystemExit(f"{place.as_posix()} has no target and seed that all of --methods were run on.")
    print(markdown(table))
    written = write(table, args.out / setting.key / "tables")
    if args.keep is not None:
        keep([found.cell for method in table.found.values() for found in method.values()], args.keep)
        written.append(args.keep)
    _say(f"Written: {', '.join(path.as_posix() for path in written)}")


def _run(args: argparse.Namespace, settings: list[Setting], targets: list[Target], tasks: dict[str, Task]) -> None:
    """Run what is missing."""
    # What an LM has said once is asked for no more, by whichever optimiser.
    dspy.configure_cache(disk_cache_dir=str(args.out / "cache"))
    servers = (args.server, args.reference_server)
    benches = [Bench(one, args.out, args.threads, args.lm_threads, servers, tasks=tasks) for one in settings]
    if args.cells is not None:
        taken = sum(bench.adopt(read(args.cells)) for bench in benches)
        _say(f"{taken} cells taken from {args.cells.as_posix()}")
    end = time.monotonic() + 60 * args.minutes if args.minutes else float("inf")
    able = [name for name in args.methods if _can_be_run(name, settings[0])]
    # Seed by seed and target by target, so that a table that was broken off compares the methods on the same; and LM by
    # LM, so that all tables grow alike.
    todo = [
        (bench, Cell(target.name, name, seed), target)
        for seed in range(args.seeds)
        for target in targets
        for name in able
        for bench in benches
    ]
    missing = [one for one in todo if one[0].known(one[1], one[2], args.again) is None]
    # Asked when one is about to begin.
    now = (one for one in missing if time.monotonic() <= end)
    if args.executor is None:
        ended = ((bench, cell, bench.run(cell, target)) for bench, cell, target in now)
    else:
        ended = _kept(Places(args.executor, benches).run(now, tasks))
    for number, (bench, cell, found) in enumerate(ended, start=1 + len(todo) - len(missing)):
        took = f"{found['pairs']} pairs, {found['runs']} runs, {found['reference_replies']} replies"
        lm = f"{Path(bench.setting.scorer).stem}, " if len(benches) > 1 else ""
        where = f"[{number}/{len(todo)}] {lm}{cell.target}, seed {cell.seed}, {cell.method}"
        _say(f"{where}: ended {found['ended']}; {took}, {found['seconds']:.0f} s")


def _can_be_run(method: str, setting: Setting) -> bool:
    """Say whether a method has all that it needs; if not, tell what is missing."""
    lacks = methods.missing(method)
    least = fitting.smallest_budget(method, setting.examples, setting.examples)
    if lacks is not None:
        _say(f"{method} needs {lacks}: left out")
    elif least > setting.budget:
        _say(f"{method} needs --budget {least:.0f} with {setting.examples} examples: left out")
    return lacks is None and least <= setting.budget


def _kept(
    ended: Iterable[tuple[Bench, Cell, dict[str, Any] | Exception]],
) -> Iterator[tuple[Bench, Cell, dict[str, Any]]]:
    """Keep cells that were run elsewhere. An LM that is not there ends all, after what was under way."""
    failed: Exception | None = None
    for bench, cell, found in ended:
        if isinstance(found, Exception):
            failed = failed or found
            _say(f"{cell.target}, seed {cell.seed}, {cell.method}: {type(found).__name__}: {found}")
        else:
            yield bench, cell, bench.keep(found)
    if failed is not None:
        raise failed


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="programs.benchmarks.peers", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two small targets that ship with the library")
    parser.add_argument(
        "--lm", nargs="+", default=["embedded"], help="scorers, a table each: 'embedded', a .gguf file, provider/model"
    )
    parser.add_argument("--executor", help="run cells on a cluster: dask (this machine), or dask://host:port")
    parser.add_argument("--reference-lm", help="by default the same")
    parser.add_argument("--methods", nargs="+", default=list(_MAIN), choices=list(methods.METHODS), metavar="METHOD")
    parser.add_argument("--target", nargs="+", help="some of the targets")
    parser.add_argument(
        "--held-out", nargs="+", action="append", default=[], metavar=("NAME=FOLDER", "SOURCE"), help=_HELD_OUT
    )
    parser.add_argument("--budget", type=int, help="scorer calls of a compile (default 200; 100 with --quick)")
    parser.add_argument("--replies", type=int, help="replies of the reference LM, at most (48; 7 with --quick)")
    parser.add_argument("--examples", type=int, help="examples to search on, and as many to choose on (20; 10)")
    parser.add_argument("--test", type=int, help="held-out questions, at most (default 60; 30 with --quick)")
    parser.add_argument("--seeds", type=int, help="default 3; 1 with --quick")
    parser.add_argument("--threads", type=int, default=4, help="concurrent calls (default 4)")
    parser.add_argument("--lm-threads", type=int, help="CPU threads of a local LM; 1 where other work goes on")
    parser.add_argument("--server", help="URL of a llama.cpp server that has loaded the local LM's file, with its /v1")
    parser.add_argument("--reference-server", help="likewise for --reference-lm, if another file")
    parser.add_argument("--table", action="store_true", help="run nothing: the tables of the cells that are there")
    parser.add_argument("--cells", type=Path, help="cells that --keep wrote: not run again; with --table, shown")
    parser.add_argument("--keep", type=Path, help="write the cells to such a file, without the prompts")
    parser.add_argument("--again", action="store_true", help="run cells anew that other data, LMs or code have made")
    parser.add_argument("--minutes", type=float, help="begin no further cell after so many")
    parser.add_argument("--out", type=Path, default=Path("runs/peers"), help="default runs/peers")
    args = parser.parse_args()
    usual = {"budget": 100, "replies": 7, "examples": 10, "test": 30, "seeds": 1} if args.quick else {}
    usual = {"budget": 200, "replies": 48, "examples": 20, "test": 60, "seeds": 3} | usual
    for name, value in usual.items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    if len(args.lm) > 1 and (args.keep or args.server or (args.table and args.cells)):
        parser.error("--keep, --server and --table with --cells are of one --lm")
    return args


if __name__ == "__main__":
    main()
