"""Fine-tuning on a few of the digits' labels, short enough for a laptop. Not a setting of the paper.

    python -m simclr_jax.finetune --config=configs/digits_finetune.py:0.1 --pretrained=runs/digits --workdir=runs/digits_10pct

Differs from configs/imagenet_finetune.py in what 10 or 140 labels need: a number of steps instead of epochs, small batches.
A pretrained network does best with a small learning rate, which keeps what it knows. From scratch, 0.1 (for 10 labels)
and 0.3 (for 140) are better:

    python -m simclr_jax.finetune --config=configs/digits_finetune.py:0.1,learning_rate=0.3 --config.init=random ...
"""

from simclr_jax import config as config_lib


def get_config(arg=None):
    args = config_lib.parse_arg(arg, fraction=0.1, steps=100, learning_rate=0.03)
    config = config_lib.finetune()
    config.label_fraction = args.fraction
    config.batch_size = 64
    config.epochs = 1.0
    config.min_steps = args.steps
    config.augment.update(crop_area=(0.5, 1.0), flip_prob=0.0)
    config.optimizer.update(learning_rate=args.learning_rate, scaling="none")
    config.log_every_steps = 50
    config.checkpoint.update(every_steps=1000, keep=1)
    return config
