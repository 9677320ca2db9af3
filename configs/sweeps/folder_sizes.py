"""Batch size and length for small folders of images: the rule of configs/folder.py, and settings around it.

    python -m launch.sweep --sweep=configs/sweeps/folder_sizes.py:lists=LISTS,labelled=LABELLED --workdir=runs/folder_sizes

LISTS/200.txt, LISTS/1000.txt, ... name 200, 1,000, ... images, a path in each line. Each run pretrains on one of them. The
linear probe is trained and tested on LABELLED/train/CLASS/* and LABELLED/test/CLASS/*, which are the same for all sizes.
Expected: from no paper. docs/results.md has what came out.
"""

import shlex

from configs.sweeps import common
from launch.sweep_figure import Figure
from simclr_jax import config as config_lib
from simclr_jax.training import by_images

FIGURE = Figure("lines", {"probe.top1": "linear probe"}, x="epochs", log=True)


def sweep(arg=None):
    args = config_lib.parse_arg(
        arg,
        lists="",
        labelled="",
        sizes="200 1000 5000",
        probe="lbfgs_quick",
        network="size=32,depth=18,width=0.25",
        seeds=1,
    )
    for number in map(int, args.sizes.split()):
        batch = by_images.batch_size(number, 1)
        epochs = by_images.epochs(number, batch)
        settings = [(batch, float(round(share * epochs))) for share in (1 / 8, 1 / 2, 1.0)]
        settings += [(batch // 2, epochs), (2 * batch, epochs)] if 2 * batch <= number else []
        for batch_size, length in settings:
            warmup = min(by_images.WARMUP_SHARE * length, by_images.MOST_WARMUP_EPOCHS)
            for seed in range(args.seeds):
                yield {
                    "run": f"pretrain --config=configs/folder.py:{args.network} --config.model.stem=imagenet "
                    f"--config.optimizer.warmup_epochs={warmup}",
                    "config.data.root": f"{args.lists}/{number}.txt",
                    "config.batch_size": batch_size,
                    "config.epochs": length,
                    "config.seed": seed,
                    "then": {"probe": common.probe(args, shlex.quote(f"--config.data.root={args.labelled}"))},
                    "figure": (f"{number} images, batch {batch_size}", length),
                }
