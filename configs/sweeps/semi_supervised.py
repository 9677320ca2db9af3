"""Fine-tuning one pretrained network on 1 % and 10 % of the labels, over draws of the labels (paper section 4.2, Table 7).

    python -m launch.sweep --sweep=configs/sweeps/semi_supervised.py:runs/imagenet --workdir=runs/semi_supervised
    python -m launch.sweep --workdir=runs/digits_semi --workers=2 \\
        --sweep=configs/sweeps/semi_supervised.py:runs/digits,recipe=configs/digits_finetune.py,draws=5

The first argument is the workdir of the pretraining run. The recipe's first argument is the share of the labels. Each
draw is a run; the table ends with mean and standard deviation over them. The paper takes one published list of labels
for each share, which is the TFDS data set imagenet2012_subset: see configs/finetune.py.
Expected on ImageNet (top-5, 1 % / 10 %): ResNet-50 75.5 / 87.8, 2x 83.0 / 91.2, 4x 85.8 / 92.6; supervised 48.4 / 80.4.
On the digits, pretrained for 60 epochs (top-1, README): 69.8 +- 7.3 / 96.5 +- 0.9.
Costs half a minute for each run on the digits and 2 CPU cores.
"""

import shlex

from simclr_jax import config as config_lib
from simclr_jax.errors import UserError


def sweep(arg=None):
    args = config_lib.parse_arg(arg, pretrained="", recipe="configs/finetune.py", draws=3)
    if not args.pretrained:
        raise UserError("it needs the workdir of a pretraining run: --sweep=configs/sweeps/semi_supervised.py:WORKDIR")
    for fraction in (0.01, 0.1):
        for draw in range(args.draws):
            yield {
                "run": f"finetune --config={args.recipe}:{fraction} {shlex.quote(f'--pretrained={args.pretrained}')}",
                "config.label_fraction": fraction,
                "config.label_seeds": (draw,),
            }
