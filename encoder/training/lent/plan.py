"""How the minutes of a lent machine are spent: decided once, kept in a file, then only followed."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from encoder.training.atomic import write_atomically

FILE = "plan.json"
# Python's start, the dry run that measures, writing and packing; what is left is training.
MARGIN_S = 25.0


@dataclass(frozen=True, slots=True)
class Plan:
    """When each part must be over, in seconds since 1970, so that a restart keeps to it."""

    begun: float
    pretrained: float
    sentences: float

    @classmethod
    def of(cls, now: float, minutes: float, sentences_share: float) -> "Plan":
        """For so many minutes from now, of which a share is for sentence vectors.

        Raises ValueError for too few to do anything.
        """
        seconds = minutes * 60
        if seconds < 2 * MARGIN_S:
            raise ValueError(f"{minutes:g} minutes are too few: the margins take {2 * MARGIN_S} s")
        return cls(now, now + seconds * (1 - sentences_share), now + seconds)

    def pretraining_s(self, now: float) -> float:
        """What pretraining may take if it begins now."""
        return max(0.0, self.pretrained - now - MARGIN_S)

    def sentence_steps(self, now: float, step_s: float, steps_max: int) -> int:
        """How many steps of the sentence stage fit from now on, at least 1."""
        left = self.sentences - now - MARGIN_S
        return max(1, min(steps_max, int(left / step_s)))


def load_plan(work: Path) -> Plan | None:
    """The plan of `work`, if there is one."""
    file = work / FILE
    return Plan(**json.loads(file.read_text("utf-8"))) if file.exists() else None


def save_plan(work: Path, plan: Plan) -> None:
    """Keep the plan."""
    write_atomically(work / FILE, json.dumps(asdict(plan)).encode())
