"""torchvision's Vision Transformer.

At the split, its tokens have the shape of an image with one column: (B, embedding, tokens, 1). So the attention map of
eq. 3 has one entry per token, as it has one per pixel in other networks, and no other code needs to know about tokens.
"""

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torchvision import models

from lirf_core.architectures import ArchitectureSpec, chain
from lirf_core.architectures.channels import take_channels


class Lower(nn.Module):
    """Patches, class token, positions and the first encoder layers: (B, C, H, W) to (B, embedding, tokens, 1)."""

    def __init__(self, whole: models.VisionTransformer, layers: list[str]) -> None:
        super().__init__()
        self.class_token = whole.class_token
        self.conv_proj = whole.conv_proj
        self.encoder = LowerEncoder(whole.encoder.pos_embedding, chain(whole.encoder.layers, layers))

    def forward(self, images: Tensor) -> Tensor:
        patches = self.conv_proj(images).flatten(2).transpose(1, 2)
        class_tokens = self.class_token.expand(images.shape[0], -1, -1)
        tokens: Tensor = self.encoder(torch.cat([class_tokens, patches], dim=1))
        return tokens.transpose(1, 2).unsqueeze(3)


class LowerEncoder(nn.Module):
    """Positions and the first encoder layers: (B, tokens, embedding) to the same shape."""

    def __init__(self, pos_embedding: nn.Parameter, layers: nn.Sequential) -> None:
        super().__init__()
        self.pos_embedding = pos_embedding
        self.layers = layers

    def forward(self, tokens: Tensor) -> Tensor:
        encoded: Tensor = self.layers(tokens + self.pos_embedding)
        return encoded


class Tokens(nn.Module):
    """The lower part's (B, embedding, tokens, 1) to (B, tokens, embedding)."""

    def forward(self, features: Tensor) -> Tensor:
        return features.squeeze(3).transpose(1, 2)


class ClassToken(nn.Module):
    """The first token, which stands for the image: (B, tokens, embedding) to (B, embedding)."""

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens[:, 0]


def parts(spec: ArchitectureSpec, split: str) -> tuple[nn.Module, nn.Module]:
    """The lower and the upper part. torchvision's default dropout is 0."""
    whole = models.get_model(spec.name, weights=None, num_classes=spec.classes, image_size=spec.image_size)
    take_channels(whole, spec.channels)
    names = [name for name, _ in whole.encoder.layers.named_children()]
    cut = names.index(split) + 1
    encoder = nn.Sequential(OrderedDict(layers=chain(whole.encoder.layers, names[cut:]), ln=whole.encoder.ln))
    upper = OrderedDict[str, nn.Module](tokens=Tokens(), encoder=encoder, token=ClassToken(), heads=whole.heads)
    return Lower(whole, names[:cut]), nn.Sequential(upper)
