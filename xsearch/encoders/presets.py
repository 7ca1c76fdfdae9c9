"""Short names for good open_clip models.

Chosen by text-to-image recall@1 on MS-COCO (5k test, percent), as published, among models whose licence allows any
use: ViT-B-32-256 39.9 and ViT-B-32 37.1 (open_clip, docs/openclip_retrieval_results.csv); PE-Core-L 57.1 and
PE-Core-bigG 58.1 at 3.6 times the weights (Perception Encoder, arXiv 2504.13181); SigLIP 2 B/16-256 53.2 and
So400m/16-384 56.0, trained on 109 languages (big_vision, README_siglip2.md).
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Preset:
    """`model` is what `get_encoder` opens; `what` says in one line what a person gets and what it costs."""

    name: str
    model: str
    what: str


PRESETS = {
    preset.name: preset
    for preset in (
        Preset(
            "fast",
            "openclip:ViT-B-32-256/datacomp_s34b_b86k",
            "512-d, 256 px, 151M parameters, 0.6 GB download, MIT; English; good without a GPU",
        ),
        Preset(
            "best",
            "openclip:PE-Core-L-14-336/meta",
            "1024-d, 336 px, 671M parameters, 2.7 GB download, Apache-2.0; English, texts up to 32 tokens; wants a GPU",
        ),
        Preset(
            "multilingual",
            "openclip:ViT-B-16-SigLIP2-256/webli",
            "768-d, 256 px, 375M parameters, 1.5 GB download, Apache-2.0; 109 languages; also good in English",
        ),
    )
}
