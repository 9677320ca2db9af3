"""Which two augmentations work best together (paper section 3.1, figure 5).

    python -m launch.sweep --sweep=configs/sweeps/composition.py --workdir=gs://BUCKET/composition --backend=tpu -- ...
    python -m launch.sweep --workdir=runs/composition \\
        --sweep="configs/sweeps/composition.py:recipe=configs/cifar10_small.py:size=20,probe=lbfgs_quick,epochs=7,folder=DIR"

`recipe` is the config that all runs start from. Blur needs at least 20 px: below that it does nothing and is refused.

Both views share one random crop. One or two operations then change only the first view. Each run is a cell of the paper's
matrix. The augmentation applies operations in a fixed order, so one run serves both orders of a pair.
Expected: no single operation is enough, and crop with colour distortion is the best pair.
"""

import itertools

from configs.sweeps import common
from launch.sweep_figure import Figure

FIGURE = Figure("matrix", {"probe.top1": "linear probe, top-1 in %"})

OPS = {
    "crop": {"crop": True, "flip_prob": 0.5},
    "cutout": {"cutout_prob": 1.0},
    "color": {"jitter_prob": 0.8, "grayscale_prob": 0.2},
    "sobel": {"sobel_prob": 1.0},
    "noise": {"noise_prob": 1.0},
    "blur": {"blur_prob": 1.0},
    "rotate": {"rotate_prob": 1.0},
}


def sweep(arg=None):
    args = common.parse(arg, ops=" ".join(OPS))
    fields = dict.fromkeys(field for op in OPS.values() for field in op)
    off = [f"--config.augment.{field}={'false' if field == 'crop' else '0.0'}" for field in fields]
    for pair in itertools.combinations_with_replacement(args.ops.split(), 2):
        augment = {f"config.augment.{field}": value for op in pair for field, value in OPS[op].items()}
        yield from common.runs(args, augment, "--config.augment.one_branch=true", *off, place=pair)
