"""Batch size, and two ways to scale the learning rate with it (paper section 5.3, figure 9; appendix B.1).

    python -m launch.sweep --sweep=configs/sweeps/batch_size.py --workdir=gs://BUCKET/batch_size --backend=tpu -- ...
    python -m launch.sweep --workdir=runs/batch_size \\
        --sweep="configs/sweeps/batch_size.py:recipe=configs/cifar10_small.py,probe=lbfgs_quick,batches=64 128,folder=DIR"

`recipe` is the config that all runs start from. `batches` are batch sizes in images. `scalings` are "linear", which means
0.3 * B / 256, and "sqrt", which means 0.075 * sqrt(B); they agree at B = 4096. Sweeps with different `epochs` can share a
workdir.
Expected: larger batches are better, most of all with few epochs; "sqrt" is better than "linear" for small batches and few
epochs. On ImageNet with batch 4096 and 100 epochs the paper reports 64.4 % (temperature 0.1).
Costs 12 pretrainings of 100 epochs, and the probes. The paper needed about 1.5 hours for 100 epochs at batch 4096 on 128 TPU
v3 cores.
Nobody has run this on ImageNet with this code yet.
"""

from configs import imagenet
from configs.sweeps import common
from launch.sweep_figure import Figure

FIGURE = Figure("lines", {"probe.top1": "linear probe"}, x="batch size", log=True)


def sweep(arg=None):
    args = common.parse(arg, batches="256 512 1024 2048 4096 8192", scalings="linear sqrt")
    for scaling in args.scalings.split():
        for batch in map(int, args.batches.split()):
            setting = {"config.optimizer.scaling": scaling, "config.batch_size": batch}
            rate = f"--config.optimizer.learning_rate={imagenet.learning_rate(scaling)}"
            yield from common.runs(args, setting, rate, place=(f"{scaling} scaling", batch))
