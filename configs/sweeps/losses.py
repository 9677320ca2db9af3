"""Loss functions (paper section 5.2, table 4).

    python -m launch.sweep --sweep=configs/sweeps/losses.py --workdir=gs://BUCKET/losses --backend=tpu -- ...
    python -m launch.sweep --workdir=runs/losses \\
        --sweep=configs/sweeps/losses.py:recipe=configs/cifar10_small.py,probe=lbfgs_quick,epochs=10,folder=FOLDER

`recipe` is the config that all runs start from.

Expected on ImageNet (100 epochs, linear top-1): margin 50.9, NT-Logistic 51.6, margin with semi-hard negatives 57.5,
NT-Logistic with semi-hard negatives 57.9, NT-Xent 63.9.
"""

from configs.sweeps import common
from launch.sweep_figure import Figure

FIGURE = Figure("bars", {"probe.top1": "linear probe"})

# Loss, semi-hard negatives or all, the paper's top-1.
SETTINGS = (
    ("nt_xent", False, 63.9),
    ("nt_logistic", False, 51.6),
    ("nt_logistic", True, 57.9),
    ("margin_triplet", False, 50.9),
    ("margin_triplet", True, 57.5),
)


def sweep(arg=None):
    args = common.parse(arg)
    for name, semi_hard, paper in SETTINGS:
        setting = {"config.loss.name": name, "config.loss.semi_hard": semi_hard}
        place = ("semi-hard negatives" if semi_hard else "all negatives", name)
        yield from common.runs(args, setting, place=place, paper={"probe.top1": paper})
