"""SimCLR in PyTorch by lightly's parts, for `benchmarks.learning`: trains, and writes features of all images.

    .venv-peers/bin/python -m benchmarks.learning_peer --images=CIFAR10 --output=DIR --seed=0 --epochs=10

The work of configs/folder.py at 32 px: ResNet-18 with the CIFAR stem and a quarter of the width, a head of two layers, views by
lightly's SimCLRTransform without blur at colour strength 0.5, its NTXentLoss at temperature 0.5 and its LARS, the same batch,
learning rate, warm-up and cosine. lightly's loss is the mean over views; it is doubled, so that learning rates mean the same.
Its normalisation by ImageNet's mean and deviation stays, because users of SimCLRTransform have it. The random numbers differ.

Writes features.npz: `train`, `test` (float32 [n, 128]), `train_labels`, `test_labels`, `seconds` of training, `loss`.
"""

import argparse
import math
import pathlib
import time

import numpy as np

BATCH, WEIGHT_DECAY, MOMENTUM, TEMPERATURE, WIDTH = 256, 1e-6, 0.9, 0.5, 16
LEARNING_RATE = 0.075 * math.sqrt(BATCH)


def make_network(seed: int):
    """Encoder and head."""
    import torch

    from benchmarks import torch_networks

    torch.manual_seed(seed)
    encoder, features = torch_networks.resnet(18, "cifar", WIDTH)
    return encoder, torch_networks.projection_head(features)


def pretrain(images: pathlib.Path, encoder, head, *, seed: int, epochs: float) -> float:
    """Trains in place and returns the last loss, on our scale."""
    from lightly.loss import NTXentLoss
    from lightly.transforms import SimCLRTransform
    from lightly.utils.lars import LARS
    import torch
    from torch.utils.data import DataLoader
    import torchvision

    transform = SimCLRTransform(input_size=32, cj_strength=0.5, gaussian_blur=0.0)
    data = torchvision.datasets.ImageFolder(str(images / "train"), transform)
    generator = torch.Generator().manual_seed(seed)
    loader = DataLoader(data, BATCH, shuffle=True, drop_last=True, num_workers=2, generator=generator)
    network = torch.nn.Sequential(encoder, head).to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    parameters = list(network.parameters())
    kernels = {"params": [p for p in parameters if p.ndim > 1], "weight_decay": WEIGHT_DECAY}
    others = {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0}
    optimizer = LARS([kernels, others], lr=LEARNING_RATE, momentum=MOMENTUM)
    total = round(epochs * len(data) / BATCH)
    warm_up = total // 10
    criterion = NTXentLoss(temperature=TEMPERATURE)
    step, loss = 0, torch.tensor(0.0)
    while step < total:
        for (first, second), _ in loader:
            rate = (
                step / warm_up
                if step < warm_up
                else 0.5 + 0.5 * math.cos(math.pi * (step - warm_up) / (total - warm_up))
            )
            for group in optimizer.param_groups:
                group["lr"] = LEARNING_RATE * rate
            z = network(torch.cat([first, second]).to(memory_format=torch.channels_last))
            loss = 2 * criterion(*z.chunk(2))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1
            if step % 20 == 0 or step == total:
                print(f"step {step} of {total}, loss {loss.item():.4f}", flush=True)
            if step == total:
                break
    return loss.item()


def features_of(images: pathlib.Path, encoder) -> tuple[np.ndarray, np.ndarray]:
    """h of all images of a folder, without augmentation, and their labels."""
    from lightly.transforms.utils import IMAGENET_NORMALIZE
    import torch
    from torch.utils.data import DataLoader
    import torchvision
    from torchvision import transforms

    plain = transforms.Compose([transforms.ToTensor(), transforms.Normalize(**IMAGENET_NORMALIZE)])
    loader = DataLoader(torchvision.datasets.ImageFolder(str(images), plain), 500, num_workers=2)
    encoder.eval()
    with torch.no_grad():
        parts = [(encoder(batch).numpy(), labels.numpy()) for batch, labels in loader]
    return np.concatenate([h for h, _ in parts]), np.concatenate([labels for _, labels in parts])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=pathlib.Path, required=True, help="folder with train/CLASS and test/CLASS")
    parser.add_argument("--output", type=pathlib.Path, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--epochs", type=float, required=True)
    arguments = parser.parse_args()
    encoder, head = make_network(arguments.seed)
    began = time.monotonic()
    loss = pretrain(arguments.images, encoder, head, seed=arguments.seed, epochs=arguments.epochs)
    seconds = time.monotonic() - began
    train, train_labels = features_of(arguments.images / "train", encoder)
    test, test_labels = features_of(arguments.images / "test", encoder)
    arguments.output.mkdir(parents=True, exist_ok=True)
    np.savez(
        arguments.output / "features.npz",
        train=train,
        train_labels=train_labels,
        test=test,
        test_labels=test_labels,
        seconds=seconds,
        loss=loss,
    )


if __name__ == "__main__":
    main()
