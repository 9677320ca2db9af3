"""SimCLR on scikit-learn's handwritten digits: the whole method on a laptop, without a download.

    python -m simclr_jax.pretrain --config=configs/digits.py --workdir=runs/digits

Not a setting of the paper, which has none this small: 1,437 training images of 8x8 pixels, seen at 16x16. From the
paper's CIFAR-10 setting it differs in one thing that the images ask for: no flips, since a mirrored digit is no digit.
Expected (docs/results.md): 97 to 99 % linear probe and 95 to 97 % 20-NN; the untrained network has 76 % and 61 %.
Costs 1 to 4 minutes on 2 CPU cores, depending on the machine.
"""

from simclr_jax import config as config_lib


def get_config(arg=None):
    args = config_lib.parse_arg(arg, epochs=60)
    config = config_lib.pretrain()
    config.data.update(source="digits", image_size=16, eval_crop=1.0)
    config.model.update(depth=18, width=0.25, stem="cifar")
    config.augment.update(strength=0.5, blur_prob=0.0, flip_prob=0.0)
    config.loss.temperature = 0.5
    config.optimizer.update(learning_rate=1.0, warmup_epochs=min(10.0, args.epochs / 4))
    config.batch_size = 128
    config.epochs = float(args.epochs)
    config.log_every_steps = 10
    config.checkpoint.every_steps = 100
    return config
