"""CIFAR-10 so small that a run takes minutes on a CPU core: the paper's experiments in small, see docs/results.md.

    python -m simclr_jax.pretrain --config=configs/cifar10_small.py:FOLDER --workdir=runs/small
    python -m launch.sweep --sweep=configs/sweeps/losses.py:recipe=configs/cifar10_small.py,... --workdir=runs/losses

FOLDER has train/CLASS/* and test/CLASS/*; without it the data is TFDS's. A ResNet-18 of an eighth of the width, views of
16 px, batch 128, the images on the device. Everything else is configs/cifar10.py's: strength 0.5, no blur, temperature 0.5.
Costs four minutes on one core for 10 epochs of 10,000 images.
"""

from simclr_jax import config as config_lib


def get_config(arg=None):
    args = config_lib.parse_arg(arg, root="", epochs=10, size=16, width=0.125, batch=128)
    config = config_lib.load("cifar10", f"depth=18,width={args.width},batch={args.batch},epochs={args.epochs}")
    config.data.image_size = args.size
    if args.root:
        config.data.update(source="folder", name=None, root=args.root)
    config.data.resident = True
    config.optimizer.warmup_epochs = args.epochs / 10
    config.log_every_steps = 20
    return config
