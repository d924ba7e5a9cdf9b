"""How fast the model is: a straight line through what its last calls took."""

from dataclasses import dataclass
from typing import Self

AVERAGED = 0.1  # weight of the newest call: about the last ten count

# Of the average cost of a token, at least this share is taken to be the token's own and not the
# call's: measurements on a busy machine scatter, and a line through them may say anything.
TOKEN_SHARE_MIN = 0.25

# A smaller batch than this many times what the call itself costs would waste the model.
CALLS_WORTH = 4
TOKENS_WORTH_MIN = 64


@dataclass(frozen=True, slots=True)
class Speed:
    """A call of `n` padded tokens takes `call_s + n * token_s`. Kept as running averages of n, of
    the seconds t, and of their products, which is what least squares needs."""

    n: float
    t: float
    nn: float
    nt: float

    @classmethod
    def of(cls, call_s: float, token_s: float) -> Self:
        """As if calls of 128 and of 384 tokens had been seen, which took so long."""
        n, nn = 256.0, 256.0**2 + 128.0**2
        return cls(n, call_s + n * token_s, nn, n * call_s + nn * token_s)

    def after(self, tokens: int, seconds: float) -> Self:
        """What is thought when a call of `tokens` padded tokens has taken `seconds`."""

        def average(old: float, new: float) -> float:
            return old + AVERAGED * (new - old)

        return type(self)(
            average(self.n, tokens),
            average(self.t, seconds),
            average(self.nn, tokens * tokens),
            average(self.nt, tokens * seconds),
        )

    @property
    def average_s(self) -> float:
        """Of one token, its part of the calls included."""
        return self.t / self.n

    @property
    def token_s(self) -> float:
        """Of one token more in a call."""
        spread = self.nn - self.n * self.n
        if spread < 0.01 * self.nn:  # all calls were of about one size: nothing to tell apart
            return self.average_s
        slope = (self.nt - self.n * self.t) / spread
        return min(max(slope, TOKEN_SHARE_MIN * self.average_s), self.average_s)

    @property
    def call_s(self) -> float:
        """Of a call without tokens."""
        return max(0.0, self.t - self.n * self.token_s)

    def tokens_within(self, seconds: float) -> int:
        """How many padded tokens a call of so many seconds has; more if that would be so few that
        the call itself, and not its tokens, took the time."""
        fitting = (seconds - self.call_s) / self.token_s
        worth = max(TOKENS_WORTH_MIN, CALLS_WORTH * self.call_s / self.token_s)
        return int(max(fitting, worth))
