"""RetroMAE's task: a row's pooled vector must rebuild a copy of which most is hidden.

One layer alone cannot guess 60 % of a text from the other 40 %; what it lacks must come from the
pooled vector, which so learns to hold what the text says (Xiao et al. 2022, without the enhanced
decoding).
"""

import torch
from torch import Tensor, nn

from encoder.config import EncoderConfig
from encoder.model import Encoder, Layer, norm, rotations


class Reconstruction(nn.Module):
    """The layer that rebuilds. It is trained with the encoder and thrown away after."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.layer = Layer(config, index=1)  # not 0: that one expects normed states
        self.norm = norm(config)
        self.apply(lambda module: _initialize(module, config.initializer_range))

    def forward(self, encoder: Encoder, pooled: Tensor, hidden_copy: Tensor) -> Tensor:
        """States (B, T, W) from which the head guesses the copy's hidden tokens.

        pooled:      (B, W), read in place of the copy's first token
        hidden_copy: (B, T) ids
        """
        config = encoder.config
        tokens = encoder.embeddings(hidden_copy)[:, 1:]
        states = torch.cat([pooled.unsqueeze(1).to(tokens.dtype), tokens], dim=1)
        turn = rotations(
            states.shape[1], config.head_width, config.rope_theta_global, states.device
        )
        rebuilt: Tensor
        rebuilt, _ = self.layer(states, None, turn, explain=False)
        normed: Tensor = self.norm(rebuilt)
        return normed


def _initialize(module: nn.Module, deviation: float) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, 0.0, deviation, -2 * deviation, 2 * deviation)
