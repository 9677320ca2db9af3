"""Strength of the colour distortion, with SimCLR and with labels (paper section 3.2, table 1).

    python -m launch.sweep --sweep=configs/sweeps/colour_strength.py --workdir=gs://BUCKET/colour_strength --backend=tpu -- ...
    python -m launch.sweep --workdir=runs/colour_strength \\
        --sweep=configs/sweeps/colour_strength.py:recipe=configs/cifar10_small.py,probe=lbfgs,epochs=20,root=FOLDER

`recipe` is the config that the runs start from.

The stage `supervised` trains the same network from scratch with labels and the same augmentations, `supervised_epochs` long.
Expected on ImageNet (linear top-1) at strength 1/8, 1/4, 1/2, 1, and 1 with blur: SimCLR 59.6, 61.0, 62.6, 63.2 and 64.5;
supervised 77.0, 76.7, 76.5, 75.7 and 75.4.
"""

from configs.sweeps import common

SETTINGS = ((0.125, 0.0), (0.25, 0.0), (0.5, 0.0), (1.0, 0.0), (1.0, 0.5))


def sweep(arg=None):
    args = common.parse(arg, supervised_epochs=90.0, supervised_batch=4096)
    for strength, blur in SETTINGS:
        supervised = f"strength={strength},blur={blur > 0},batch={args.supervised_batch}"
        for seed in range(args.seeds):
            yield {
                "run": common.pretraining(args),
                "config.augment.strength": strength,
                "config.augment.blur_prob": blur,
                "config.seed": seed,
                "then": {
                    "probe": common.probe(args),
                    "supervised": f"finetune --config=configs/supervised.py:{supervised} "
                    f"--config.epochs={args.supervised_epochs} --config.seed={seed}",
                },
            }
