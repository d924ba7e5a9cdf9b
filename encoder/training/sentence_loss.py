"""What is wrong with a batch of sentence vectors, as one number and its parts."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from encoder.training.recipe import Sentences

# Texts that the teacher tells by nothing: one and its translation, a line and its copy. At a
# temperature of .05 a twin takes 99.7 % of the softmax, and the graded rest is never taught.
TWINS_ABOVE = 0.999
NEVER = -1e4  # a score that softmax makes 0; minus infinity times 0 would be no number


@dataclass(frozen=True, slots=True)
class SentenceLoss:
    """The parts before they are weighted; `total` has a gradient.

    cosine:   1 - cosine with the teacher's vector, at full width
    similar:  divergence of the similarities in the batch from the teacher's, in nats
    contrast: cross-entropy of finding the partner, in nats
    The last two are means over the lengths that a vector may be cut to.
    """

    total: Tensor
    cosine: Tensor
    similar: Tensor
    contrast: Tensor


def sentence_loss(vectors: Tensor, target: Tensor, rules: Sentences) -> SentenceLoss:
    """Against the teacher, between the pairs, and for every length (Kusupati et al. 2022).

    vectors: (2 pairs, width), the firsts and then the seconds, of any length
    target:  (2 pairs, width), the teacher's, of length 1
    """
    dimensions = sorted({min(d, vectors.shape[1]) for d in (*rules.dimensions, rules.width)})
    twins = target @ target.T > TWINS_ABOVE  # (2 pairs, 2 pairs), each text itself included
    wanted = _others(target, twins, rules.temperature).softmax(dim=-1)
    same = _same(target, rules.contrast_same_above)
    cosine = 1 - F.cosine_similarity(vectors, target).mean()
    similar = contrast = torch.zeros((), device=vectors.device)
    for cut in dimensions:
        short = F.normalize(vectors[:, :cut], dim=-1)
        if rules.similarity_weight:
            guessed = _others(short, twins, rules.temperature).log_softmax(dim=-1)
            similar = similar + F.kl_div(guessed, wanted, reduction="batchmean")
        if rules.contrast_weight:
            contrast = contrast + _contrast(short, same, rules.temperature)
    similar, contrast = similar / len(dimensions), contrast / len(dimensions)
    total = (
        rules.cosine_weight * cosine
        + rules.similarity_weight * similar
        + rules.contrast_weight * contrast
    )
    return SentenceLoss(total, cosine.detach(), similar.detach(), contrast.detach())


def _others(vectors: Tensor, twins: Tensor, temperature: float) -> Tensor:
    """Similarities (n, n) of each text with the others; itself and its twins would drown them."""
    return (vectors @ vectors.T / temperature).masked_fill(twins, NEVER)


def _same(target: Tensor, above: float) -> Tensor:
    """Which texts the teacher finds too like a first to be its negatives: (pairs, pairs)."""
    firsts, seconds = target.chunk(2)
    beside = ~torch.eye(len(firsts), dtype=torch.bool, device=target.device)
    return ((firsts @ seconds.T) > above) & beside


def _contrast(vectors: Tensor, same: Tensor, temperature: float) -> Tensor:
    """Each first finds its second among all, and each second its first (InfoNCE)."""
    firsts, seconds = vectors.chunk(2)
    scores = (firsts @ seconds.T / temperature).masked_fill(same, NEVER)
    own = torch.arange(len(firsts), device=vectors.device)
    return (F.cross_entropy(scores, own) + F.cross_entropy(scores.T, own)) / 2
