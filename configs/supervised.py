"""The supervised baseline: the same encoder, data and schedule with labels (paper sections 3.2 and 7).

    python -m simclr_jax.finetune --config=configs/supervised.py --pretrained=runs/imagenet --workdir=runs/supervised
    python -m simclr_jax.finetune --config=configs/supervised.py:strength=1.0,blur=true ...   # Table 1

The network and the data are those of the pretraining run, whose weights are not used (`init=random`). LARS as in pretraining
(learning rate 0.3 * B / 256, 10 epochs of warm-up, cosine decay), weight decay 1e-4 as is usual with labels; crop and
flip, or with `strength` the paper's colour distortion as well.
Expected on ImageNet: 76.5 % top-1 for a ResNet-50. The stronger the colour distortion, the worse it becomes, while SimCLR
becomes better: 77.0, 76.7, 76.5, 75.7 and 75.4 % at strength 1/8, 1/4, 1/2, 1 and 1 with blur (Table 1).
"""

from simclr_jax import config as config_lib


def get_config(arg=None):
    args = config_lib.parse_arg(arg, strength=0.0, blur=False, batch=4096, epochs=100.0, fraction=1.0)
    config = config_lib.finetune()
    config.init = "random"
    config.label_fraction = args.fraction
    if args.strength > 0:
        config.augment.update(jitter_prob=0.8, grayscale_prob=0.2, strength=args.strength)
    config.augment.blur_prob = 0.5 if args.blur else 0.0
    config.optimizer.update(name="lars", learning_rate=0.3, scaling="linear", weight_decay=1e-4, nesterov=False)
    config.optimizer.warmup_epochs = min(10.0, args.epochs / 10)
    config.batch_size = args.batch
    config.epochs = args.epochs
    return config
