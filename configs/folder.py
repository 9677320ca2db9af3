"""SimCLR on a folder of your own images, labelled or not.

    python -m simclr_jax.pretrain --config=configs/folder.py:PHOTOS --workdir=runs/photos
    python -m simclr_jax.pretrain --config=configs/folder.py:PHOTOS,size=64,depth=18,width=0.5 --workdir=runs/photos

PHOTOS may hold JPEG, PNG, WebP, BMP, GIF, TIFF, AVIF or JPEG 2000 files at any depth, or be a text file with the path of
an image in each line, or a file of NumPy arrays, .npz. With PHOTOS/train/CLASS/* (and PHOTOS/test/CLASS/*, or val), or
with a table, --config.data.labels=labels.csv (docs/folders.md), the images have labels, which only the online classifier
and the evaluations look at:

    python -m simclr_jax.linear_probe --pretrained=runs/photos --workdir=runs/photos_probe
    python -m simclr_jax.linear_probe --pretrained=runs/photos --workdir=runs/photos_probe --config.data.root=LABELLED

Up to 32 px the paper's CIFAR-10 setting is taken (CIFAR stem, colour strength 0.5, no blur, temperature 0.5), above it
the ImageNet one. The learning rate is 0.075 * sqrt(B), which the paper recommends for small batches. Without the arguments
batch and epochs, the number of images decides, and the run says what it takes: a batch of 32 to 256, an eighth of the images if
it can be; 3,000 steps or 100 epochs, whichever is more, but at most 800 epochs; a tenth of them, at most 10, of warm-up.

Costs on 2 CPU cores: docs/results.md; a run says how long it will take after ten steps. On a GPU, take the defaults, add
bfloat16=true, and raise batch to what fits.
"""

from simclr_jax import config as config_lib


def get_config(arg=None):
    args = config_lib.parse_arg(
        arg, root="", size=224, depth=50, width=1.0, batch=0, epochs=0.0, bfloat16=False, train="train", test=""
    )
    small = args.size <= 32
    config = config_lib.pretrain()
    config.data.update(source="folder", root=args.root, train_split=args.train, image_size=args.size)
    config.data.test_split = args.test or None
    config.data.eval_crop = 1.0 if small else 0.875
    config.model.update(depth=args.depth, width=args.width, stem="cifar" if small else "imagenet")
    if small:
        config.augment.update(strength=0.5, blur_prob=0.0)
        config.loss.temperature = 0.5
    config.optimizer.update(scaling="sqrt", learning_rate=0.075, warmup_epochs="auto")
    config.batch_size = args.batch or "auto"
    config.epochs = args.epochs or "auto"
    config.compute_dtype = "bfloat16" if args.bfloat16 else "float32"
    config.checkpoint.every_steps = 500
    return config
