"""Transfer to the twelve data sets of the paper, or to a folder of images (paper section 4.2, appendix B.8, table 8).

    python -m simclr_jax.transfer --config=configs/transfer.py:dtd --pretrained=DIR --workdir=DIR2
    python -m simclr_jax.transfer --config=configs/transfer.py:dtd,protocol=finetune --pretrained=DIR --workdir=DIR2
    python -m simclr_jax.transfer --config=configs/transfer.py:folder,root=BIRDS --pretrained=DIR --workdir=DIR2
    python -m launch.sweep --sweep=configs/sweeps/transfer.py:DIR --workdir=DIR_transfer       # the ten of TFDS

The data sets are those of TFDS, with their official validation images where there are some and a fifth of the training
images otherwise. Two are not in TFDS: for `birdsnap` and `aircraft` give a `root` with train/CLASS, test/CLASS (and
val/CLASS for aircraft). `folder` is any other such folder; `metric` and `val` may be given for it.

Images have the size of pretraining's unless `size` is given. "lbfgs": the central square, no augmentation; 45 values of l2.
"finetune": crop and flip, 20,000 steps of batch 256, Nesterov momentum 0.9, 7 learning rates by 8 weight decays, momentum
of BatchNorm max(1 - 10 / steps per epoch, 0.9).
Costs: lbfgs minutes to an hour, most of it L-BFGS on the CPU; finetune 57 trainings of 20,000 steps, an hour each on a chip.
Nobody has run these on the paper's networks with this code yet.
"""

from simclr_jax import config as config_lib
from simclr_jax.errors import UserError
from simclr_jax.errors import listed
from simclr_jax.errors import nearest

# TFDS's name; splits for training, validation (None: held out) and test; what is reported.
DATASETS = {
    "food101": ("food101", "train", None, "validation", "top1"),
    "cifar10": ("cifar10", "train", None, "test", "top1"),
    "cifar100": ("cifar100", "train", None, "test", "top1"),
    "birdsnap": (None, "train", None, "test", "top1"),
    "sun397": ("sun397/standard-part1-120k", "train", None, "test", "top1"),
    "cars": ("cars196", "train", None, "test", "top1"),
    "aircraft": (None, "train", "val", "test", "mean_per_class"),
    "voc2007": ("voc/2007", "train", "validation", "test", "map11"),
    "dtd": ("dtd", "train", "validation", "test", "top1"),
    "pets": ("oxford_iiit_pet", "train", None, "test", "mean_per_class"),
    "caltech101": ("caltech101", "train", None, "test", "mean_per_class"),
    "flowers": ("oxford_flowers102", "train", "validation", "test", "mean_per_class"),
}


def get_config(arg=None):
    args = config_lib.parse_arg(arg, dataset="", protocol="lbfgs", root="", metric="", val="", size=0)
    config = config_lib.transfer()
    if args.dataset:
        if args.dataset not in (*DATASETS, "folder"):
            near = nearest(args.dataset, DATASETS)
            known = listed(DATASETS)
            raise UserError(
                f"configs/transfer.py has no data set {args.dataset!r}{near}; it has {known}, and 'folder'."
            )
        name, train, val, test, metric = DATASETS.get(args.dataset, (None, "train", None, None, "top1"))
        config.data.update(
            source="tfds" if name else "folder", name=name, train_split=train, val_split=val, test_split=test
        )
        config.metric = metric
    config.metric = args.metric or config.metric
    config.data.val_split = args.val or config.data.val_split
    config.data.root = args.root or None
    config.protocol = args.protocol
    if args.protocol == "lbfgs":  # fine-tuned networks are tested as in pretraining: on 0.875 of the side at 224 px
        config.data.eval_crop = 1.0
    if args.size:
        config.data.image_size = args.size
    config.log_every_steps = 500
    config.checkpoint.every_steps = 2000
    return config
