"""SimCLR on CIFAR-10 (paper appendix B.9): CIFAR stem, colour strength 0.5, no blur, batch 512.

    python -m simclr_jax.pretrain --config=configs/cifar10.py --workdir=runs/cifar10
    python -m simclr_jax.pretrain --config=configs/cifar10.py:depth=18,epochs=100 --workdir=runs/cifar10_r18
    python -m simclr_jax.linear_probe --pretrained=runs/cifar10 --workdir=runs/cifar10_probe

The data comes from TFDS, which downloads 160 MB once; `--config.data.root=DIR` is its data_dir.
Expected: the paper reports 94.0 % linear top-1 for ResNet-50 after 1,000 epochs at batch 512 (temperature 0.5, learning
rate the best of 0.5, 1.0 and 1.5). Others report 91.7 to 91.9 % for ResNet-18 after 1,000 epochs, 85.6 % after 100.
Costs: 100 epochs of ResNet-18 took others 20 minutes on an A100. On 2 CPU cores a quarter of its width, `width=0.25` with
`bfloat16=true`, took 1.9 hours and reached 71.0 % on images that were encoded again as JPEG (docs/results.md).
"""

from simclr_jax import config as config_lib


def get_config(arg=None):
    args = config_lib.parse_arg(arg, depth=50, epochs=1000, batch=512, width=1.0, learning_rate=1.0, bfloat16=False)
    config = config_lib.pretrain()
    config.data.update(source="tfds", name="cifar10", image_size=32, eval_crop=1.0)
    config.model.update(depth=args.depth, width=args.width, stem="cifar")
    config.augment.update(strength=0.5, blur_prob=0.0)
    config.loss.temperature = 0.5
    config.optimizer.update(learning_rate=args.learning_rate, scaling="linear", weight_decay=1e-4)
    config.batch_size = args.batch
    config.epochs = float(args.epochs)
    config.compute_dtype = "bfloat16" if args.bfloat16 else "float32"
    config.checkpoint.every_steps = 1000
    return config
