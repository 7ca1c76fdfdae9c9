"""Words one after another from a captioning decoder: by beams, or drawn by chance.

open_clip's own `generate` needs parts of transformers that its fifth release no longer has.
"""

from collections.abc import Callable

import torch

# (rows, length) token ids to (rows, vocabulary) logits of what follows; equally many rows a picture, one after another.
Decoder = Callable[[torch.Tensor], torch.Tensor]

MIN_WORDS = 3


def beam_search(decode: Decoder, pictures: int, beams: int, *, start: int, end: int, longest: int) -> list[list[int]]:
    """Return for each picture the likeliest tokens that a search by beams finds, without `start` and `end`.

    Likeliest is the greatest mean log-probability of a token, `end` included, among captions of MIN_WORDS to
    `longest` - 2 tokens. With as many beams as there are beginnings it is the likeliest of all.
    """
    first = decode(torch.full((pictures * beams, 1), start))
    rows, device = torch.arange(pictures, device=first.device)[:, None], first.device
    tokens = torch.full((pictures, beams, 1), start, device=device)
    totals = torch.full((pictures, beams), -torch.inf, device=device)
    totals[:, 0] = 0  # the beams are alike at first: one of them counts
    best: list[tuple[float, list[int]]] = [(-torch.inf, [])] * pictures
    for written in range(longest - 1):
        logits = decode(tokens.flatten(0, 1)) if written else first
        if written < MIN_WORDS:
            logits[..., end] = -torch.inf
        logs = logits.float().log_softmax(dim=-1).unflatten(0, (pictures, beams))
        sums = totals[..., None] + logs
        for picture, (ended, beam) in enumerate(
            zip(*(found.tolist() for found in sums[..., end].max(dim=1)), strict=True)
        ):
            mean = ended / (written + 1)
            if mean > best[picture][0]:
                best[picture] = (mean, tokens[picture, beam, 1:].tolist())
        sums[..., end] = -torch.inf
        totals, at = sums.flatten(1).topk(beams)
        beam, word = at // logs.shape[-1], at % logs.shape[-1]
        tokens = torch.cat([tokens[rows, beam], word[..., None]], dim=-1)
        # Sums only fall, so no caption that is still being written can come to a better mean than this.
        attainable = totals[:, 0] / longest
        if all(mean >= possible for (mean, _), possible in zip(best, attainable.tolist(), strict=True)):
            break
    unended = tokens[:, 0, 1:-1].tolist()
    return [words or cut for (_, words), cut in zip(best, unended, strict=True)]


def draw(decode: Decoder, pictures: int, nucleus: float, *, start: int, end: int, longest: int) -> list[list[int]]:
    """Return for each picture tokens drawn one by one, without `start` and `end`, by torch's global random numbers.

    Each is drawn from the likeliest tokens that make up the probability `nucleus` together, the one that exceeds it
    included (Holtzman et al. 2020, arXiv 1904.09751).
    """
    tokens = torch.full((pictures, 1), start)
    for written in range(longest - 2):
        logits = decode(tokens)
        if written < MIN_WORDS:
            logits[..., end] = -torch.inf
        shares, words = logits.float().softmax(dim=-1).sort(descending=True)
        shares[shares.cumsum(dim=-1) - shares >= nucleus] = 0
        word = words.gather(1, torch.multinomial(shares, 1))
        tokens = torch.cat([tokens.to(word.device), word], dim=1)
        if bool((tokens == end).any(dim=1).all()):
            break
    return [row[: row.index(end)] if end in row else row for row in tokens[:, 1:].tolist()]
