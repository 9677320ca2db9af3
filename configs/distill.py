"""Distillation of a fine-tuned teacher into a student on unlabelled images (SimCLRv2, arXiv 2006.10029, section 3.3).

    python -m simclr_jax.distill --config=configs/distill.py --config.teacher=TUNED --pretrained=DIR --workdir=STUDENT

Crop + flip, LARS as in pretraining (the SimCLRv2 paper trains for 400 epochs at batch 4096; the learning rate is the
pretraining one here), temperature 1. Labels of the training images are not used.
Expected on ImageNet, a ResNet-50 as student of a ResNet-152 (3x, with selective kernels) tuned on 1 % and 10 % of the labels:
73.9 and 77.5 % top-1. Nobody has run that with this code.
"""

from simclr_jax import config as config_lib


def get_config(arg=None):
    args = config_lib.parse_arg(arg, batch=4096, epochs=400, temperature=1.0)
    config = config_lib.distill()
    config.temperature = args.temperature
    config.batch_size = args.batch
    config.epochs = float(args.epochs)
    return config
