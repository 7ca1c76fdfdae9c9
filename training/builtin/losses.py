"""The losses by which towers learn, and keep what they knew."""

from torch import Tensor
from torch.nn import functional

LOGIT_SCALE = 22.96


def symmetric_loss(scores: Tensor, same: Tensor) -> Tensor:
    """Return the InfoNCE of scores (n, m) in both directions (Radford et al. 2021); `same` is 1 where a pair is one."""
    return (choice_loss(scores, same) + choice_loss(scores.T, same.T)) / 2


def choice_loss(scores: Tensor, own: Tensor) -> Tensor:
    """Return the cross entropy of scores (n, m), by which each row chooses among columns; those that are its own are 1.

    Rows without one of their own are left out.
    """
    count = own.sum(dim=1, keepdim=True)
    has = count.squeeze(1) > 0
    return functional.cross_entropy(scores[has], (own / count)[has])


def divergence(logits: Tensor, before: Tensor) -> Tensor:
    """Return how far the probabilities of rows are from what they were (Kullback & Leibler), their mean."""
    probabilities = functional.softmax(before, dim=1)
    return functional.kl_div(functional.log_softmax(logits, dim=1), probabilities, reduction="batchmean")
