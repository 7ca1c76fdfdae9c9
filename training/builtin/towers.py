"""The two towers in torch, by the names that their ONNX graphs use; and texts that learn no more."""

# mypy: allow-subclassing-any

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rounding import NOT_ROUNDED
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional
from transformers import BertModel

from xsearch.encoders import Encoder

# Channels in and out and kernel of the blocks that are tuned. Blocks 0 to 15 stay frozen, in ONNX Runtime.
TUNED_BLOCKS = {16: (208, 208, 5), 17: (208, 208, 5), 18: (208, 208, 5), 19: (208, 208, 5), 20: (208, 352, 3)}
EXPANSION = 6
WEIGHT_STEPS = 64
DIM = 384
MAX_TOKENS = 48
TEXTS_AT_ONCE = 128


def in_bfloat16() -> torch.autocast:
    """Compute in bfloat16 where a CPU has more than AVX2: without, it is twenty times slower than float32."""
    return torch.autocast("cpu", torch.bfloat16, enabled=torch.backends.cpu.get_cpu_capability() != "AVX2")


class FrozenDepthwise(torch.autograd.Function):
    """Depthwise convolution whose kernel does not learn: its gradient is one more, with the kernel turned around.

    Several times faster on a CPU than the general backward pass.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, kernel: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(kernel)
        return _depthwise(x, kernel, bias.to(x.dtype))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (kernel,) = ctx.saved_tensors
        return _depthwise(gradient.contiguous(memory_format=torch.channels_last), kernel.flip(2, 3), None), None, None


def _depthwise(x: Tensor, kernel: Tensor, bias: Tensor | None) -> Tensor:
    return functional.conv2d(x, kernel.to(x.dtype), bias, padding=kernel.shape[-1] // 2, groups=len(kernel))


def rounded(x: Tensor) -> Tensor:
    """Return activations as eight bits hold them, between the least and the most of them."""
    least, most = min(0.0, x.min().item()), max(0.0, x.max().item())
    step = max(most - least, 1e-6) / 255
    return torch.fake_quantize_per_tensor_affine(x.float(), step, round(-least / step), 0, 255).to(x.dtype)


def rounded_weights(convolution: nn.Conv2d) -> Tensor:
    """Return weights as `rounding.py` stores them: seven bits, a scale for each channel that goes out."""
    weight = convolution.weight
    steps = weight.detach().abs().amax(dim=(1, 2, 3)).clamp(min=1e-6) / WEIGHT_STEPS
    zeros = torch.zeros(len(weight), dtype=torch.int32)
    return torch.fake_quantize_per_channel_affine(weight, steps, zeros, 0, -WEIGHT_STEPS, WEIGHT_STEPS)


class Block(nn.Module):
    """An inverted residual of stride 1 (Sandler et al. 2018), batch normalisation folded into its convolutions."""

    is_rounded = False

    def __init__(self, channels_in: int, channels_out: int, kernel: int) -> None:
        super().__init__()
        wide = EXPANSION * channels_in
        self._expand_conv = nn.Conv2d(channels_in, wide, 1)
        self._depthwise_conv = nn.Conv2d(wide, wide, kernel, groups=wide).requires_grad_(False)
        self._project_conv = nn.Conv2d(wide, channels_out, 1)
        self.residual = channels_in == channels_out

    def forward(self, x: Tensor) -> Tensor:
        expand, depthwise, project = self._expand_conv, self._depthwise_conv, self._project_conv
        weights, kept = (rounded_weights, rounded) if self.is_rounded else (_weights, _as_it_is)
        wide = functional.relu6(functional.conv2d(x, weights(expand), expand.bias))
        wide = functional.relu6(FrozenDepthwise.apply(wide, weights(depthwise), depthwise.bias))
        out = kept(functional.conv2d(wide, weights(project), project.bias))
        return kept(x + out) if self.residual else out


def _weights(convolution: nn.Conv2d) -> Tensor:
    return convolution.weight


def _as_it_is(x: Tensor) -> Tensor:
    return x


class ImageTower(nn.Module):
    """From the maps of the frozen stages, (n, 208, side, side), to the joint space.

    A picture is the weighted sum of its patches and, beside it, the class texts that it is expected to have (ConSE,
    Norouzi et al. 2014). `fc_scale` and `cp_scale` are the constants by which the graph does this.
    """

    ct: Tensor
    is_rounded = False

    def __init__(self, fc_scale: float, cp_scale: float, dropout: float) -> None:
        super().__init__()
        blocks = OrderedDict((str(i), Block(*shape)) for i, shape in TUNED_BLOCKS.items())
        self._blocks = nn.Sequential(blocks)
        self._conv_head = nn.Conv2d(352, 1280, 1)
        self._fc = nn.Linear(1280, 1000)
        self.ln = nn.LayerNorm(1280)
        self.w1, self.w2 = nn.Linear(1280, 768), nn.Linear(768, DIM)
        self.skip = nn.Linear(1280, DIM, bias=False)
        self.at = nn.Linear(768, 1)
        self.cp = nn.Linear(DIM, DIM)
        self.register_buffer("ct", torch.empty(1000, DIM))
        self.fc_scale, self.cp_scale = fc_scale, cp_scale
        self.drop = nn.Dropout(dropout)
        self.to(memory_format=torch.channels_last)

    def forward(self, maps: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return unit vectors (n, 384), unit patches (n, p, 384), their weights (n, p), class logits (n, 1000)."""
        head, weights = self._conv_head, rounded_weights if self.is_rounded else _weights
        maps = functional.relu6(functional.conv2d(self._blocks(maps), weights(head), head.bias))
        features = maps.flatten(2).transpose(1, 2)
        logits = self._fc(features.mean(dim=1)).float()
        normal = self.drop(self.ln(features))
        wide = self.drop(functional.gelu(self.w1(normal)))
        patches = (self.w2(wide) + self.skip(normal)).float()
        weights = functional.softmax(self.at(wide).float(), dim=1)
        whole = (patches * weights).sum(dim=1)
        whole = whole + self.class_part(logits) * whole.norm(dim=1, keepdim=True)
        return functional.normalize(whole, dim=1), functional.normalize(patches, dim=2), weights.squeeze(2), logits

    def round(self) -> None:
        """From now on compute as when convolutions are rounded, nearly; gradients pass by (Bengio et al. 2013).

        What lies between 0 and 6 stays as it is: eight bits hold it well, and there is six times as much of it.
        """
        self.is_rounded = True
        for name, block in self._blocks.named_children():
            block.is_rounded = f"/_blocks.{name}/" not in NOT_ROUNDED

    def class_part(self, logits: Tensor) -> Tensor:
        """Return (n, 384), what the class texts add to a picture; its length is its weight beside the patches."""
        expected: Tensor = self.cp(functional.softmax(self.fc_scale * logits, dim=1) @ self.ct)
        return self.cp_scale * expected.float()

    def weigh_class_part(self, times: float) -> None:
        with torch.no_grad():
            for one in self.cp.parameters():
                one.mul_(times)


class TextTower(nn.Module):
    """MiniLM, mean pooling, and a residual layer into the joint space. The last `tuned_layers` of it learn."""

    def __init__(self, minilm: Path, tokenizer: Path, tuned_layers: int) -> None:
        super().__init__()
        self.bert = BertModel.from_pretrained(minilm, add_pooling_layer=False)
        self.l = nn.Linear(DIM, DIM)
        layers = self.bert.encoder.layer
        self.bert.requires_grad_(False)
        layers[len(layers) - tuned_layers :].requires_grad_(True)
        self._tokenizer = Tokenizer.from_file(str(tokenizer))
        self._tokenizer.enable_truncation(MAX_TOKENS)
        self._tokenizer.enable_padding()

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return unit vectors (n, 384) of texts (n, tokens)."""
        tokens = self.bert(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state.float()
        mask = attention_mask[:, :, None].float()
        mean = functional.normalize((tokens * mask).sum(dim=1) / mask.sum(dim=1), dim=1)
        return functional.normalize(mean + self.l(mean).float(), dim=1)

    def encode(self, texts: Sequence[str]) -> Tensor:
        """Return unit vectors (n, 384), texts of like length encoded together."""
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        vectors = []
        for at in range(0, len(order), TEXTS_AT_ONCE):
            found = self._tokenizer.encode_batch([texts[i] for i in order[at : at + TEXTS_AT_ONCE]])
            ids = torch.tensor([one.ids for one in found])
            vectors.append(self(ids, torch.tensor([one.attention_mask for one in found])))
        return torch.cat(vectors)[torch.tensor(order).argsort()]


class FixedTexts(nn.Module):
    """Texts as an encoder tells them that learns no more; each is encoded once."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self._encoder = encoder
        self._known: dict[str, Tensor] = {}

    def encode(self, texts: Sequence[str]) -> Tensor:
        """Return unit vectors (n, 384)."""
        new = list({text for text in texts if text not in self._known})
        self._known |= zip(new, torch.from_numpy(self._encoder.encode_texts(new)), strict=True)
        return torch.stack([self._known[text] for text in texts])
