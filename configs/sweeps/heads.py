"""Projection heads, and the features before and after them (paper section 4.2, figure 8 and table 3).

    python -m launch.sweep --sweep=configs/sweeps/heads.py --workdir=gs://BUCKET/heads --backend=tpu -- ...
    python -m launch.sweep --workdir=runs/heads \\
        --sweep=configs/sweeps/heads.py:recipe=configs/cifar10_small.py,probe=lbfgs_quick,epochs=10,folder=FOLDER

`recipe` is the config that all runs start from.

The kinds are none, linear and nonlinear, with several widths of z. `probe` evaluates h, `probe_z` evaluates z.
Expected, for any width: nonlinear is better than linear by about 3 points, and better than none by more than 10. h is better
than z by more than 10 points.
"""

from configs.sweeps import common
from launch.sweep_figure import Figure

FIGURE = Figure("bars", {"probe.top1": "linear probe of h", "probe_z.top1": "linear probe of z"}, x="dimensions of z")


def sweep(arg=None):
    args = common.parse(arg, dims="32 128 512 2048")
    settings = [("none", 128)]
    settings += [(kind, int(dim)) for kind in ("linear", "nonlinear") for dim in args.dims.split()]
    of_z = {"probe_z": common.probe(args, "--config.features=z")}
    for kind, dim in settings:
        setting = {"config.head.kind": kind, "config.head.dim": dim}
        place = (kind, "as h" if kind == "none" else dim)
        yield from common.runs(args, setting, then=of_z, place=place)
