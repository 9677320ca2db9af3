"""Linear evaluation on frozen features.

    python -m simclr_jax.linear_probe --pretrained=DIR --workdir=DIR2                     # L-BFGS, 45 values of l2
    python -m simclr_jax.linear_probe --pretrained=DIR --workdir=DIR2 --config=configs/linear_probe.py:lbfgs_quick      # 6
    python -m simclr_jax.linear_probe --pretrained=DIR --workdir=DIR2 --config=configs/linear_probe.py:sgd

"lbfgs" is the protocol of the paper's transfer experiments (appendix B.8), "sgd" that of its ImageNet evaluation
(appendix B.6: 90 epochs, batch 4096, learning rate 0.1 * B / 256, Nesterov momentum 0.9, no weight decay, crop + flip).
Expected on ImageNet (sgd; top-1 / top-5): ResNet-50 69.3 / 89.0, 2x 74.2 / 92.0, 4x 76.5 / 93.2.
Data and network come from the pretraining run.
"""

from simclr_jax import config as config_lib


def get_config(arg=None):
    args = config_lib.parse_arg(arg, protocol="lbfgs", batch=0, epochs=90)
    config = config_lib.linear_probe()
    config.protocol = args.protocol.removesuffix("_quick")
    if args.protocol == "lbfgs_quick":
        config.lbfgs.update(l2_min=1e-2, l2_max=1e3, l2_values=6, max_iterations=200)
    config.batch_size = args.batch or (4096 if args.protocol == "sgd" else 256)
    config.epochs = float(args.epochs)
    return config
