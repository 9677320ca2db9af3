"""Nearest neighbours on frozen features: 20 neighbours, which small training sets allow; Wu et al. take 200 on ImageNet.

    python -m simclr_jax.knn --pretrained=DIR --workdir=DIR2 [--config=configs/knn.py:200]

Data and network come from the pretraining run. Costs one pass over training and test images.
"""

from simclr_jax import config as config_lib


def get_config(arg=None):
    args = config_lib.parse_arg(arg, neighbours=20)
    config = config_lib.knn()
    config.neighbours = args.neighbours
    return config
