"""Objectives (paper section 5.2, table 4).

    python -m launch.sweep --sweep=configs/sweeps/losses.py --workdir=gs://BUCKET/losses --backend=tpu -- ...
    python -m launch.sweep --workdir=runs/losses \\
        --sweep=configs/sweeps/losses.py:recipe=configs/cifar10_small.py,probe=lbfgs,epochs=20,root=FOLDER

`recipe` is the config that the runs start from.

Expected on ImageNet (100 epochs, linear top-1): margin 50.9, NT-Logistic 51.6, margin with semi-hard negatives 57.5,
NT-Logistic with them 57.9, NT-Xent 63.9.
"""

from configs.sweeps import common

SETTINGS = (
    ("nt_xent", False),
    ("nt_logistic", False),
    ("nt_logistic", True),
    ("margin_triplet", False),
    ("margin_triplet", True),
)


def sweep(arg=None):
    args = common.parse(arg)
    for name, semi_hard in SETTINGS:
        yield from common.runs(args, {"config.loss.name": name, "config.loss.semi_hard": semi_hard})
