"""Temperature with and without l2 normalisation, as in the paper's table 5, on the digits.

    python -m launch.sweep --sweep=configs/sweeps/digits_temperature.py --workdir=runs/temperature --workers=2
    python -m launch.sweep --sweep=configs/sweeps/digits_temperature.py:epochs=60,seeds=3 --workdir=runs/temperature60

The paper's linear top-1, for a ResNet-50 on ImageNet after 100 epochs: normalised 59.7, 64.4, 60.7 and 58.0 at temperatures
0.05, 0.1, 0.5 and 1; not normalised 57.2 and 57.0 at 10 and 100.
Expected: 0.1 is best for nearest neighbours. With so few and easy images, the effects on the linear probe and of normalisation
are too small to see. docs/sweeps.md has results.
Costs 1 to 2 minutes for each of the 6 runs at 20 epochs on 2 CPU cores.
"""

from configs.sweeps.temperature import SETTINGS
from launch.sweep_figure import Figure
from simclr_jax import config as config_lib

MEASURES = {"probe.top1": "linear probe", "knn.top1": "nearest neighbours"}
FIGURE = Figure("lines", MEASURES, x="temperature", log=True)


def sweep(arg=None):
    args = config_lib.parse_arg(arg, epochs=20, seeds=1)
    for normalize, temperature, paper in SETTINGS:
        for seed in range(args.seeds):
            yield {
                "run": f"pretrain --config=configs/digits.py:epochs={args.epochs}",
                "config.loss.normalize": normalize,
                "config.loss.temperature": temperature,
                "config.seed": seed,
                "then": {"knn": "knn", "probe": "linear_probe --config.lbfgs.l2_values=12"},
                "figure": ("l2 norm" if normalize else "no norm", temperature),
                "paper": {"probe.top1": round(paper / 100, 5)},
            }
