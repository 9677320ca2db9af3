"""Fine-tuning a pretrained network on few labels, and training the same network from scratch (paper section 4.2, table 7).

    python -m launch.sweep --sweep=configs/sweeps/semi_supervised.py:runs/imagenet --workdir=runs/semi_supervised
    python -m launch.sweep --workdir=runs/digits_semi --workers=2 \\
        --sweep=configs/sweeps/semi_supervised.py:runs/digits,recipe=configs/digits_finetune.py,draws=5,scratch_rate=0.3

The first argument is the workdir of the pretraining run. `recipe` is a config whose first argument is the fraction of the
labels. Each draw (a random subset of the labels) is a run. The table ends with mean and standard deviation over the draws.
The paper uses one published list of labels for each fraction, the TFDS data set imagenet2012_subset: see
configs/imagenet_finetune.py.
`rate` and `scratch_rate` are learning rates (0: the recipe's). Training from scratch needs a larger rate, so the baseline has a
separate one. `batch` and `steps`, a minimum, are for small data sets. `scratch=false` omits the baseline.
Expected on ImageNet (top-5, 1 % / 10 %): ResNet-50 75.5 / 87.8, 2x 83.0 / 91.2, 4x 85.8 / 92.6; supervised 48.4 / 80.4.
On the digits, pretrained for 60 epochs (top-1, README): 66.8 +- 7.2 / 94.6 +- 0.7.
Costs half a minute for each run on the digits and 2 CPU cores.
"""

import shlex

from configs.sweeps import common
from launch.sweep_figure import Figure

FIGURE = Figure("bars", {"top1": "top-1", "top5": "top-5"}, x="labels")

# Top-5 of a ResNet-50, fine-tuned and from scratch.
PAPER = {(0.01, "pretrained"): 0.755, (0.1, "pretrained"): 0.878, (0.01, "random"): 0.484, (0.1, "random"): 0.804}


def sweep(arg=None):
    args = common.parse_pretrained(
        arg,
        "semi_supervised",
        recipe="configs/imagenet_finetune.py",
        fractions="0.01 0.1",
        draws=3,
        first_draw=0,
        rate=0.0,
        scratch_rate=0.0,
        batch=0,
        steps=0,
        scratch=True,
    )
    flags_of_all = [shlex.quote(f"--pretrained={args.pretrained}")]
    flags_of_all += [f"--config.batch_size={args.batch}"] if args.batch else []
    flags_of_all += [f"--config.min_steps={args.steps}"] if args.steps else []
    for fraction in map(float, args.fractions.split()):
        for init in ("pretrained", "random") if args.scratch else ("pretrained",):
            rate = args.rate if init == "pretrained" else args.scratch_rate
            flags = [*flags_of_all, *([f"--config.optimizer.learning_rate={rate}"] if rate else [])]
            for draw in range(args.first_draw, args.first_draw + args.draws):
                paper = PAPER.get((fraction, init))
                yield {
                    "run": " ".join([f"finetune --config={args.recipe}:{fraction}", *flags]),
                    "config.label_fraction": fraction,
                    "config.init": init,
                    "config.label_seeds": (draw,),
                    "figure": ({"pretrained": "fine-tuned", "random": "from scratch"}[init], f"{100 * fraction:g} %"),
                    "paper": {"top5": paper} if paper else {},
                }
