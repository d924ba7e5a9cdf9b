"""`python -m index.torture faults|power|damage`: what is tried, what was wrong, exit status."""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Iterable

from index.torture import damage, faults, power
from index.torture.judging import Verdict

SHOWN = 20


def main() -> int:
    logging.basicConfig(level=logging.CRITICAL)
    arguments = _parser().parse_args()
    begun = time.monotonic()
    match arguments.what:
        case "faults":
            tried, wrong = _judged(faults.run(faults.every_fault(every=arguments.every)))
        case "power":
            recording = power.record()
            cuts = power.every_cut(recording, seeds=arguments.seeds, every=arguments.every)
            tried, wrong = _judged(power.run(recording, cuts))
        case _:
            tried, wrong = _judged(damage.run(arguments.seed, arguments.variants))
    for told in wrong[:SHOWN]:
        print(f"WRONG {told}")
    outcome = f"FAILED, {len(wrong)} wrong" if wrong else "passed"
    print(f"{arguments.what} {outcome}: {tried:,} tried, {time.monotonic() - begun:.0f} s")
    return 1 if wrong else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m index.torture", description=__doc__)
    commands = parser.add_subparsers(dest="what", required=True)
    fault = commands.add_parser("faults", help="each file and database call fails once")
    cut = commands.add_parser("power", help="the power goes after each change")
    for command in (fault, cut):
        command.add_argument("--every", type=int, default=1, help="only each n-th call")
    cut.add_argument("--seeds", type=int, default=3, help="ways to tear what was not synced")
    flips = commands.add_parser("damage", help="flipped bits and cut ends in every file")
    flips.add_argument("--variants", type=int, default=1000)
    flips.add_argument("--seed", type=int, default=0)
    return parser


def _judged(
    outcomes: Iterable[faults.Outcome | power.Result | Verdict],
) -> tuple[int, list[str]]:
    tried, wrong = 0, []
    for outcome in outcomes:
        tried += 1
        if outcome.wrong:
            wrong.append(str(outcome))
    return tried, wrong


if __name__ == "__main__":
    sys.exit(main())
