"""What training makes small. The owner of these formulas; torch comes from who calls them."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def contrastive(similarity: "torch.Tensor", positives: "torch.Tensor", scale: "torch.Tensor") -> "torch.Tensor":
    """Return the symmetric InfoNCE loss of (n, m) cosines; `positives` (n, m) are True where a pair belongs together.

    Of several positives each is to be likely: the mean of their log-probabilities, as in Khosla et al. 2020 (arXiv
    2004.11362), equation 2. With one positive a row it is CLIP's loss (Radford et al. 2021). `scale` is the inverse
    temperature.
    """
    logits, weights = scale * similarity, positives.to(similarity.dtype)
    rows = logits.log_softmax(dim=1).mul(weights).sum(dim=1) / weights.sum(dim=1)
    columns = logits.log_softmax(dim=0).mul(weights).sum(dim=0) / weights.sum(dim=0)
    return -(rows.mean() + columns.mean()) / 2


def sigmoid(
    similarity: "torch.Tensor", positives: "torch.Tensor", scale: "torch.Tensor", bias: "torch.Tensor"
) -> "torch.Tensor":
    """Return the sigmoid loss of (n, m) cosines, over all pairs, a row (Zhai et al. 2023, arXiv 2303.15343)."""
    logits = scale * similarity + bias
    signs = 2 * positives.to(similarity.dtype) - 1
    # softplus(-x) is -log(sigmoid(x)), and does not overflow.
    return (-signs * logits).logaddexp(logits.new_zeros(())).sum() / len(similarity)


def captioning(logits: "torch.Tensor", labels: "torch.Tensor", pad: int) -> "torch.Tensor":
    """Return (n,) sums over each text of the cross-entropy of its tokens, (n, length, vocabulary) against (n, length).

    Each token is foretold from the picture and the tokens before it (Yu et al. 2022, arXiv 2205.01917); padding counts
    for nothing.
    """
    likely = logits.float().log_softmax(dim=-1).gather(2, labels[..., None])[..., 0]
    return -(likely * (labels != pad)).sum(dim=1)
