"""Width and depth of the network, with SimCLR and with supervised learning (paper section 4.1, figure 7).

    python -m launch.sweep --sweep=configs/sweeps/network_size.py --workdir=gs://BUCKET/network_size --backend=tpu -- ...
    python -m launch.sweep --workdir=runs/network_size \\
        --sweep="configs/sweeps/network_size.py:recipe=configs/cifar10_small.py,epochs=10,depths=18,widths=0.125 0.25,\\
            supervised_epochs=10,supervised_batch=128,probe=lbfgs_quick,folder=DIR"

`recipe` is the config that all runs start from. The stage `supervised` trains the same network from scratch with labels, crop
and flip, for `supervised_epochs` (configs/supervised.py).
Expected: both gain with size. SimCLR gains more, so the gap between them shrinks. ImageNet, linear top-1 (1,000
epochs): 69.3, 74.2 and 76.5 for a ResNet-50 of width 1, 2 and 4.
"""

from configs.sweeps import common
from launch.sweep_figure import Figure

FIGURE = Figure("lines", {"probe.top1": "SimCLR, linear probe", "supervised.top1": "supervised"}, x="width", log=True)

PAPER = {(50, 1.0): 69.3, (50, 2.0): 74.2, (50, 4.0): 76.5}


def sweep(arg=None):
    args = common.parse(arg, depths="18 34 50 101 152", widths="1 2 4", **common.SUPERVISED)
    for depth in map(int, args.depths.split()):
        for width in map(float, args.widths.split()):
            setting = {"config.model.depth": depth, "config.model.width": width}
            supervised = common.supervised_baseline(args)
            published = {"probe.top1": PAPER.get((depth, width))}
            place = (f"depth {depth}", width)
            yield from common.runs(args, setting, supervised=supervised, place=place, paper=published)
