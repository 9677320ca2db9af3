"""ResNets and projection heads in PyTorch, without torchvision: what the peers train. In the environment of PyTorch."""

import torch
from torch import nn


def convolution(inputs: int, outputs: int, size: int, stride: int) -> nn.Sequential:
    """A convolution without bias, and BatchNorm."""
    kernel = nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False)
    return nn.Sequential(kernel, nn.BatchNorm2d(outputs))


class Block(nn.Module):
    """Two 3x3 convolutions, or a bottleneck of 1x1, 3x3 and 1x1, beside a shortcut."""

    def __init__(self, inputs: int, width: int, stride: int, bottleneck: bool):
        super().__init__()
        outputs = 4 * width if bottleneck else width
        layers = [(inputs, width, 3, stride), (width, width, 3, 1)]
        if bottleneck:
            layers = [(inputs, width, 1, 1), (width, width, 3, stride), (width, outputs, 1, 1)]
        self.layers = nn.ModuleList(convolution(*layer) for layer in layers)
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or inputs != outputs:
            self.shortcut = convolution(inputs, outputs, 1, stride)

    def forward(self, x):
        y = x
        for number, layer in enumerate(self.layers):
            y = torch.relu(y) if number else y
            y = layer(y)
        return torch.relu(y + self.shortcut(x))


def resnet(depth: int, stem: str, width: int = 64) -> tuple[nn.Sequential, int]:
    """A ResNet-18 or -50 up to its pooled features, and their number.

    Args:
      depth: 18 or 50.
      stem: "cifar" or "imagenet".
      width: channels of the first stage.
    """
    blocks, bottleneck = {18: ((2, 2, 2, 2), False), 50: ((3, 4, 6, 3), True)}[depth]
    if stem == "cifar":
        layers: list[nn.Module] = [convolution(3, width, 3, 1), nn.ReLU()]
    else:
        layers = [convolution(3, width, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    inputs = width
    for stage, number in enumerate(blocks):
        for place in range(number):
            channels = width * 2**stage
            layers.append(Block(inputs, channels, 2 if stage and not place else 1, bottleneck))
            inputs = 4 * channels if bottleneck else channels
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten()), inputs


def projection_head(features: int, outputs: int = 128) -> nn.Sequential:
    """Two layers with BatchNorm, as SimCLR's."""
    return nn.Sequential(
        nn.Linear(features, features, bias=False),
        nn.BatchNorm1d(features),
        nn.ReLU(),
        nn.Linear(features, outputs, bias=False),
        nn.BatchNorm1d(outputs),
    )


def nt_xent_dense(z: torch.Tensor, temperature: float) -> torch.Tensor:
    """NT-Xent with the whole matrix of logits: z `[2 n, dim]`, all first views before all second ones; the mean over views."""
    z = nn.functional.normalize(z.float(), dim=1)
    logits = z @ z.T / temperature
    logits.fill_diagonal_(float("-inf"))
    pairs = len(z) // 2
    targets = torch.arange(len(z), device=z.device).roll(pairs)
    return nn.functional.cross_entropy(logits, targets)
