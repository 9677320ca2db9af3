"""Information that h and z keep about the transformation of an image (paper section 4.2, table 3).

    python -m launch.sweep --sweep=configs/sweeps/transformations.py:runs/imagenet --workdir=runs/transformations

The first argument is the workdir of the pretraining run. `images` is the number of training images to use.
Expected on ImageNet, from h / from z: colour or greyscale 99.3 / 97.4, rotation 67.6 / 25.6, original or corrupted
99.5 / 59.6, original or Sobel-filtered 96.6 / 56.3.
"""

import shlex

from configs.sweeps import common
from launch.sweep_figure import Figure

MEASURES = {
    "grayscale": "colour or greyscale",
    "rotate": "which rotation",
    "noise": "original or noisy",
    "sobel": "original or Sobel",
}
FIGURE = Figure("bars", MEASURES, x="features")

PAPER = {
    "h": {"grayscale": 0.993, "rotate": 0.676, "noise": 0.995, "sobel": 0.966},
    "z": {"grayscale": 0.974, "rotate": 0.256, "noise": 0.596, "sobel": 0.563},
}


def sweep(arg=None):
    args = common.parse_pretrained(arg, "transformations", images=5000)
    for features, paper in PAPER.items():
        yield {
            "run": f"transform_probe {shlex.quote(f'--pretrained={args.pretrained}')} --config.train_images={args.images}",
            "config.features": features,
            "figure": ("top-1", features),
            "paper": paper,
        }
