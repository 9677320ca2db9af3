"""Predicting which transformation was applied, from h or from z (paper section 4.2, table 3).

    python -m simclr_jax.transform_probe --pretrained=DIR --workdir=DIR2
    python -m simclr_jax.transform_probe --pretrained=DIR --workdir=DIR3 --config.features=z

The paper added rotation, noise and Sobel filtering, one at a time, to the augmentations of a pretraining before it asked for
them: `--config.augment.rotate_prob=1.0` and so on there.
Expected on ImageNet, from h / from g(h): colour or greyscale 99.3 / 97.4, rotation 67.6 / 25.6, original or corrupted 99.5 /
59.6, original or Sobel 96.6 / 56.3.
"""

from simclr_jax import config as config_lib


def get_config(arg=None):
    args = config_lib.parse_arg(arg, classifier="mlp")
    config = config_lib.transform_probe()
    config.classifier = args.classifier
    return config
