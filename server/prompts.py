"""How long a prompt may be. It stands in every window of a text: it must leave room for text."""

from encoder.runtime import Encoder
from encoder.tokenizer import Truncation
from server.errors import RequestInvalid

PROMPT_CHARACTERS_MAX = 10_000  # bounds the work of finding out that it is too long
UTF8_BYTES_MAX = 4  # of one code point


def check_prompt_room(prompt: str, field: str, encoder: Encoder) -> None:
    """Raises RequestInvalid for a prompt that leaves less than half of a window."""
    tokens_max = encoder.tokens_max // 2
    if len(prompt) * UTF8_BYTES_MAX < tokens_max:  # no token is shorter than a byte
        return
    seen = encoder.tokenizer.encode(
        [prompt[: PROMPT_CHARACTERS_MAX + 1]], tokens_max=2**31 - 1, truncation=Truncation.HEAD
    )[0]
    if len(prompt) > PROMPT_CHARACTERS_MAX or seen.tokens_total > tokens_max:
        problem = f"the prompt is longer than half of the {encoder.tokens_max} tokens"
        raise RequestInvalid(field, f"{problem} that the model reads")
