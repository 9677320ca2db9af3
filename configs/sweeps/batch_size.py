"""Batch size and the scaling of the learning rate with it, on ImageNet (paper Fig. 9 and Table B.1).

    python -m launch.sweep --sweep=configs/sweeps/batch_size.py --workdir=gs://BUCKET/batch_size --backend=tpu -- ...
    python -m launch.sweep --sweep=configs/sweeps/batch_size.py:epochs=200 --workdir=gs://BUCKET/batch_size ...

A ResNet-50; the learning rate is 0.3 * B / 256 ("linear") or 0.075 * sqrt(B) ("sqrt"), which agree at B = 4096. Other
epochs are other runs, so they may go to the same workdir, and then stand in the same table as long as they are in the
sweep. Linear evaluation is the paper's protocol (90 epochs of SGD).
Expected: larger batches are better, most so when epochs are few; "sqrt" is better than "linear" for small batches and few
epochs. With batch 4096 and 100 epochs the paper reports 64.4 % (temperature 0.1).
Costs 12 times 100 epochs (the paper needed about 1.5 hours for 100 at batch 4096 on 128 TPU v3 cores) and the probes.
Nobody has run this with this code yet.
"""

import itertools

from launch.sweep_figure import Figure
from simclr_jax import config as config_lib

FIGURE = Figure("lines", {"probe.top1": "linear probe"}, x="batch size", log=True)


def sweep(arg=None):
    args = config_lib.parse_arg(arg, epochs=100, depth=50, root="")
    data = f"--config.data.root={args.root}" if args.root else ""
    for scaling, batch in itertools.product(("linear", "sqrt"), (256, 512, 1024, 2048, 4096, 8192)):
        setting = f"depth={args.depth},epochs={args.epochs},batch={batch},scaling={scaling}"
        yield {
            "run": f"pretrain --config=configs/imagenet.py:{setting} {data}",
            "config.optimizer.scaling": scaling,
            "config.batch_size": batch,
            "config.epochs": float(args.epochs),
            "then": {"probe": "linear_probe --config=configs/linear_probe.py:sgd"},
            "figure": (f"{scaling} scaling", batch),
        }
