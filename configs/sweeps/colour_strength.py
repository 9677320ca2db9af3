"""Strength of the colour distortion, with SimCLR and with supervised learning (paper section 3.2, table 1).

    python -m launch.sweep --sweep=configs/sweeps/colour_strength.py --workdir=gs://BUCKET/colour_strength --backend=tpu -- ...
    python -m launch.sweep --workdir=runs/colour_strength \\
        --sweep=configs/sweeps/colour_strength.py:recipe=configs/cifar10_small.py,probe=lbfgs_quick,epochs=10,folder=FOLDER

`recipe` is the config that all runs start from.

The stage `supervised` trains the same network from scratch with labels and the same augmentations, for `supervised_epochs`.
`supervised_rate` is its learning rate: a small network needs a larger one than configs/supervised.py has (docs/results.md).
Expected on ImageNet (linear top-1) at strength 1/8, 1/4, 1/2, 1, and 1 with blur: SimCLR 59.6, 61.0, 62.6, 63.2 and 64.5;
supervised 77.0, 76.7, 76.5, 75.7 and 75.4.
"""

from configs.sweeps import common
from launch.sweep_figure import Figure

FIGURE = Figure("bars", {"probe.top1": "SimCLR, linear probe", "supervised.top1": "supervised"}, x="colour strength")

# Strength, probability of blur, the paper's top-1 with SimCLR and with supervised learning.
SETTINGS = (
    (0.125, 0.0, 59.6, 77.0),
    (0.25, 0.0, 61.0, 76.7),
    (0.5, 0.0, 62.6, 76.5),
    (1.0, 0.0, 63.2, 75.7),
    (1.0, 0.5, 64.5, 75.4),
)


def sweep(arg=None):
    args = common.parse(arg, **common.SUPERVISED)
    for strength, blur, paper, paper_supervised in SETTINGS:
        setting = {"config.augment.strength": strength, "config.augment.blur_prob": blur}
        supervised = common.supervised_baseline(args, strength, blur > 0)
        place = ("ours", f"{strength:g}" + (" + blur" if blur else ""))
        published = {"probe.top1": paper, "supervised.top1": paper_supervised}
        yield from common.runs(args, setting, supervised=supervised, place=place, paper=published)
