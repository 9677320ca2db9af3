"""SimCLR on ImageNet, the paper's main setting (sections 2 and 4): 224 px, batch 4096, LARS, temperature 0.1.

    python -m simclr_jax.pretrain --config=configs/imagenet.py:epochs=1000 --workdir=DIR
    python -m simclr_jax.pretrain --config=configs/imagenet.py:depth=50,width=4,epochs=1000 --workdir=DIR
    python -m simclr_jax.pretrain --config=configs/imagenet.py:batch=512,epochs=100,scaling=sqrt --workdir=DIR
    python -m simclr_jax.linear_probe --config=configs/linear_probe.py:sgd --pretrained=DIR --workdir=DIR2

ImageNet has to be prepared for TFDS (`tfds build imagenet2012`); `--config.data.root=DIR` is its data_dir.
Expected linear top-1 / top-5 after 1,000 epochs: ResNet-50 69.3 / 89.0, 2x 74.2 / 92.0, 4x 76.5 / 93.2; after 100 epochs
ResNet-50 64.4 (temperature 0.1). For small batches or few epochs the paper prefers scaling=sqrt, which means the
learning rate 0.075 * sqrt(B) instead of 0.3 * B / 256.
Costs: the paper needed about 1.5 hours for 100 epochs of ResNet-50 on 128 TPU v3 cores.
"""

from simclr_jax import config as config_lib


def learning_rate(scaling: str) -> float:
    """What the scaling is applied to: 0.3 * B / 256 and 0.075 * sqrt(B) agree at B = 4096."""
    return 0.075 if scaling == "sqrt" else 0.3


def get_config(arg=None):
    args = config_lib.parse_arg(arg, depth=50, width=1.0, epochs=100, batch=4096, scaling="linear", bfloat16=True)
    config = config_lib.pretrain()
    config.data.update(source="tfds", name="imagenet2012", test_split="validation", image_size=224, eval_crop=0.875)
    config.data.reduced_decode = False  # as the reference
    config.model.update(depth=args.depth, width=args.width, stem="imagenet")
    config.optimizer.update(scaling=args.scaling, learning_rate=learning_rate(args.scaling))
    config.batch_size = args.batch
    config.epochs = float(args.epochs)
    config.compute_dtype = "bfloat16" if args.bfloat16 else "float32"
    return config
