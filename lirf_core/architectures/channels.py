"""torchvision's networks take RGB images; this makes them take grey ones."""

from torch import nn


def take_channels(network: nn.Module, channels: int) -> None:
    """Lets the first convolution, which sees the image, take images of so many channels (at most three)."""
    first = next(module for module in network.modules() if isinstance(module, nn.Conv2d))
    if first.in_channels != channels:
        first.in_channels = channels
        # Cut, not drawn again: each family has its own initialisation.
        first.weight = nn.Parameter(first.weight.detach()[:, :channels].clone())
