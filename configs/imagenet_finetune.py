"""Fine-tuning on 1 %, 10 % or all labels of ImageNet, as the paper does it (section 4.2, appendix B.5).

    python -m simclr_jax.finetune --pretrained=DIR --workdir=DIR2 --config=configs/imagenet_finetune.py:1.0,epochs=60 \\
        --config.data.source=tfds --config.data.name=imagenet2012_subset/1pct --config.data.test_split=validation
    python -m simclr_jax.finetune --pretrained=DIR --workdir=DIR3 --config=configs/imagenet_finetune.py:0.01 \\
        --config.init=random

SGD with Nesterov momentum 0.9, learning rate 0.05 * B / 256, no warm-up, no weight decay, crop + flip; 60 epochs for 1 %
of the labels, 30 for more. `--config.init=random` is the same network from scratch, the supervised baseline.
The first command takes one of the published label lists, which are data sets of their own, the second draws the labels.
For less than about 10,000 labels take configs/finetune.py.
Expected on ImageNet (top-5, 1 % / 10 %): ResNet-50 75.5 / 87.8, 2x 83.0 / 91.2, 4x 85.8 / 92.6; supervised 48.4 / 80.4.
"""

from simclr_jax import config as config_lib


def get_config(arg=None):
    args = config_lib.parse_arg(arg, fraction=1.0, batch=4096, epochs=0)
    config = config_lib.finetune()
    config.label_fraction = args.fraction
    config.batch_size = args.batch
    config.epochs = float(args.epochs or (60 if args.fraction <= 0.01 else 30))
    return config
