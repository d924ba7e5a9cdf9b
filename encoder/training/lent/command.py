"""`python -m encoder.training.lent pack|receive|visit|collect`; recipes/lent.sh says how.

argparse, because `receive` runs where nothing is installed yet.
"""

import argparse
import sys
from pathlib import Path

from encoder.training.lent.parcels import ParcelDamaged, receive
from encoder.training.lent.results import collect


def main() -> None:
    """Read the command line and do what it says."""
    chosen = _parser().parse_args()
    try:
        chosen.act(chosen)
    except (ParcelDamaged, OSError) as error:
        sys.exit(str(error))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m encoder.training.lent", description=__doc__)
    commands = parser.add_subparsers(required=True)

    packing = commands.add_parser("pack", help="here: write the parcels that travel")
    packing.set_defaults(act=_pack)
    for name in ("recipe", "text", "cache", "teacher", "out"):
        packing.add_argument(f"--{name}", type=Path, required=True)
    packing.add_argument("--wheels", type=Path, help="folder of packages that are missing there")

    folder = commands.add_parser("pack-folder", help="here: the same of any folder's files")
    folder.set_defaults(act=_pack_folder)
    folder.add_argument("folder", type=Path)
    folder.add_argument("--out", type=Path, required=True)

    halving = commands.add_parser("halve", help="here: copy a sentence encoder in fp16")
    halving.set_defaults(act=_halve)
    halving.add_argument("model", type=Path)
    halving.add_argument("target", type=Path)

    receiving = commands.add_parser("receive", help="there: take a parcel in")
    receiving.set_defaults(act=_receive)
    receiving.add_argument("parcel", type=Path)
    receiving.add_argument("work", type=Path)
    receiving.add_argument("--last", action="store_true", help="no parcel follows")

    visiting = commands.add_parser("visit", help="there: train, wait, give results back")
    visiting.set_defaults(act=_visit)
    visiting.add_argument("work", type=Path)
    visiting.add_argument("out", type=Path)
    visiting.add_argument("--minutes", type=float, default=22.0, help="for all training")
    visiting.add_argument("--sentences-share", type=float, default=0.25, help="of the minutes")
    visiting.add_argument("--wait-s", type=float, default=540.0, help="before this call returns")
    visiting.add_argument("--option", action="append", default=[], help="for pretrain")

    running = commands.add_parser("pipeline", help="there: what a visit starts")
    running.set_defaults(act=_pipeline)
    running.add_argument("work", type=Path)
    running.add_argument("--option", action="append", default=[])

    collecting = commands.add_parser("collect", help="here: put results together")
    collecting.set_defaults(act=_collect)
    collecting.add_argument("folders", type=Path, nargs="+")
    collecting.add_argument("--out", type=Path, required=True)
    return parser


def _pack(chosen: argparse.Namespace) -> None:
    from encoder.training.lent.packing import pack  # torch is not everywhere

    pack(
        chosen.recipe,
        text=chosen.text,
        cache=chosen.cache,
        teacher=chosen.teacher,
        wheels=chosen.wheels,
        out=chosen.out,
        tree=Path.cwd(),
        say=print,
    )


def _pack_folder(chosen: argparse.Namespace) -> None:
    from encoder.training.lent.packing import pack_folder

    pack_folder(chosen.folder, out=chosen.out, tree=Path.cwd(), say=print)


def _halve(chosen: argparse.Namespace) -> None:
    from encoder.training.lent.packing import halve

    halve(chosen.model, chosen.target)


def _receive(chosen: argparse.Namespace) -> None:
    count = receive(chosen.parcel, chosen.work)
    print(f"{chosen.parcel}: {count / 2**20:.1f} MiB below {chosen.work}")
    if chosen.last:
        (chosen.work / "received").touch()


def _visit(chosen: argparse.Namespace) -> None:
    from encoder.training.lent.visit import visit  # needs what the parcels bring

    visit(
        chosen.work.resolve(),
        chosen.out.resolve(),
        minutes=chosen.minutes,
        sentences_share=chosen.sentences_share,
        wait_s=chosen.wait_s,
        options=chosen.option,
    )


def _pipeline(chosen: argparse.Namespace) -> None:
    from encoder.training.lent.pipeline import PartFailed, Pipeline
    from encoder.training.lent.plan import load_plan

    plan = load_plan(chosen.work)
    if plan is None:
        sys.exit(f"{chosen.work} has no plan; a visit makes it")
    try:
        Pipeline(chosen.work, plan, chosen.option).run()
    except PartFailed as error:
        sys.exit(str(error))


def _collect(chosen: argparse.Namespace) -> None:
    for folder in collect(chosen.folders, chosen.out):
        print(folder)


if __name__ == "__main__":
    main()
