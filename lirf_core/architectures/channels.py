"""The number of image channels. torchvision's networks take RGB images; here they can also take grey ones."""

from torch import nn


def take_channels(network: nn.Module, channels: int) -> None:
    """Make the first convolution, which sees the image, take images of `channels` channels (at most three)."""
    first = next(module for module in network.modules() if isinstance(module, nn.Conv2d))
    if first.in_channels != channels:
        first.in_channels = channels
        # Cut the weight, do not draw a new one: each family has its own initialisation.
        first.weight = nn.Parameter(first.weight.detach()[:, :channels].clone())
