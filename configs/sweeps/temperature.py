"""Temperature with and without l2 normalisation (paper section 5.2, table 5).

    python -m launch.sweep --sweep=configs/sweeps/temperature.py --workdir=gs://BUCKET/temperature --backend=tpu -- ...
    python -m launch.sweep --workdir=runs/temperature \\
        --sweep=configs/sweeps/temperature.py:recipe=configs/cifar10_small.py,probe=lbfgs_quick,epochs=10,folder=FOLDER

`recipe` is the config that all runs start from.

Expected on ImageNet (100 epochs, linear top-1): normalised 59.7, 64.4, 60.7 and 58.0 at 0.05, 0.1, 0.5 and 1; not
normalised 57.2 and 57.0 at 10 and 100.
"""

from configs.sweeps import common
from launch.sweep_figure import Figure

FIGURE = Figure("lines", {"probe.top1": "linear probe"}, x="temperature", log=True)

# l2 normalisation, temperature, the paper's top-1.
SETTINGS = (
    (True, 0.05, 59.7),
    (True, 0.1, 64.4),
    (True, 0.5, 60.7),
    (True, 1.0, 58.0),
    (False, 10.0, 57.2),
    (False, 100.0, 57.0),
)


def sweep(arg=None):
    args = common.parse(arg)
    for normalize, temperature, paper in SETTINGS:
        setting = {"config.loss.normalize": normalize, "config.loss.temperature": temperature}
        place = ("l2 norm" if normalize else "no norm", temperature)
        yield from common.runs(args, setting, place=place, paper={"probe.top1": paper})
