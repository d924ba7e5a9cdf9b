"""What does attention buy? Four architectures of one size on the same captions.

    python -m bench.architectures --data DIR --out runs/architectures       all of it; hours,
                                  less with --precision bf16 on a CPU that multiplies in it
    python -m bench.architectures --data DIR --out /tmp/try --steps 3       a few steps of each

DIR holds parallel/multi30k. Every architecture has the same text, vocabulary, number of
parameters (to 5 %), batches, readings of the text, dropout and label smoothing, and gets the best
of the same learning rates, chosen on the val set. Stopped at any moment, the same command goes on
with the epoch it was in; architectures that are done are not measured again. Writes table.md,
bleu-by-length.svg, val-loss.svg and a JSON file for each architecture into --out.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

from bench.architectures.data import Captions
from bench.architectures.models import TITLES, Kind
from bench.architectures.training import Budget, Outcome, measure
from encoder.evaluation.plot import Line, plot
from encoder.training.curves import plot as plot_losses
from encoder.training.memory import keep_freed_memory

REHEARSED_TEXTS = 48


def main() -> None:
    """Read the command line and do it."""
    options = _options()
    keep_freed_memory()
    torch.set_num_threads(options.threads)
    budget = Budget(
        epochs=options.epochs,
        trial_epochs=options.trial_epochs,
        rates=tuple(options.rates),
        steps=options.steps,
    )
    if options.steps is not None:
        budget = Budget(epochs=1, trial_epochs=1, rates=(1e-3,), steps=options.steps)
    captions = Captions(
        options.data,
        options.out,
        vocabulary=budget.vocabulary,
        merge_dropout=budget.merge_dropout,
        seed=budget.seed,
        judged_max=None if options.steps is None else REHEARSED_TEXTS,
    )
    precision = torch.bfloat16 if options.precision == "bf16" else torch.float32
    outcomes = []
    for kind in options.kinds:
        outcomes.append(measure(Kind(kind), captions, budget, options.out, precision))
        write(options.out, outcomes)
    print((options.out / "table.md").read_text("utf-8"))


def write(out: Path, outcomes: Sequence[Outcome]) -> None:
    """The table and the pictures of what is known so far."""
    (out / "table.md").write_text(table(outcomes), "utf-8")
    buckets = list(outcomes[0].bleu_by_length)
    lines = [
        Line(TITLES[o.kind], [o.bleu_by_length[b] for b in buckets], [0.0] * len(buckets))
        for o in outcomes
    ]
    title = "Multi30k test2016 de-en: BLEU by tokens of the source"
    (out / "bleu-by-length.svg").write_text(plot(title, buckets, lines, "BLEU"), "utf-8")
    losses = {
        TITLES[o.kind]: [(float(i + 1), loss) for i, loss in enumerate(o.val_losses)]
        for o in outcomes
    }
    picture = plot_losses(losses, "Multi30k de-en: loss on the val set", across="epochs")
    (out / "val-loss.svg").write_text(picture, "utf-8")


def table(outcomes: Sequence[Outcome]) -> str:
    """Markdown: one column an architecture."""
    rows: list[tuple[str, list[str]]] = [
        ("parameters", [f"{o.parameters / 1e6:.2f} M" for o in outcomes]),
        ("learning rate, best of those tried", [f"{o.rate:g}" for o in outcomes]),
        ("BLEU", [f"{o.bleu:.1f}" for o in outcomes]),
        ("chrF2", [f"{o.chrf:.1f}" for o in outcomes]),
        *(
            (
                f"BLEU, sources of {bucket} tokens ({outcomes[0].texts_by_length[bucket]} texts)",
                [f"{o.bleu_by_length[bucket]:.1f}" for o in outcomes],
            )
            for bucket in outcomes[0].bleu_by_length
        ),
        ("training, tokens/s", [f"{o.train_tokens_per_s:,.0f}" for o in outcomes]),
        ("operations that wait for one another", [str(o.sequential_operations) for o in outcomes]),
        ("translating the test set, s", [f"{o.decode_s:.1f}" for o in outcomes]),
        ("translating one caption, ms", [f"{o.decode_one_ms:.0f}" for o in outcomes]),
    ]
    head = ["", *(TITLES[o.kind] for o in outcomes)]
    lines = [" | ".join(["", *head, ""]).strip(), "|---|" + "---:|" * len(outcomes)]
    lines += [f"| {name} | " + " | ".join(cells) + " |" for name, cells in rows]
    tokens = ", ".join(f"{o.tokens_trained / 1e6:.1f}M" for o in outcomes)
    lines += [
        "",
        f"Multi30k test2016 de-en, greedy; `{outcomes[0].signature}`. Trained on {tokens} tokens "
        f"of sources and targets; torch {torch.__version__}, {torch.get_num_threads()} threads.",
    ]
    return "\n".join(lines) + "\n"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.architectures",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with parallel/multi30k")
    parser.add_argument("--out", type=Path, default=Path("runs/architectures"))
    parser.add_argument("--epochs", type=int, default=Budget().epochs, help="readings of the text")
    parser.add_argument(
        "--trial-epochs", type=int, default=Budget().trial_epochs, help="the same, with each rate"
    )
    parser.add_argument("--rates", type=float, nargs="+", default=Budget().rates)
    parser.add_argument("--steps", type=int, help="a rehearsal of so many steps")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument(
        "--kinds", nargs="+", choices=[kind.value for kind in Kind], default=[*map(str, Kind)]
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
