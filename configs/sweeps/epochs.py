"""Length of training, for each batch size (paper section 5.3, figure 9).

    python -m launch.sweep --sweep=configs/sweeps/epochs.py --workdir=gs://BUCKET/epochs --backend=tpu -- ...
    python -m launch.sweep --workdir=runs/epochs \\
        --sweep="configs/sweeps/epochs.py:recipe=configs/cifar10_small.py,probe=lbfgs_quick,batches=128,lengths=3 10,folder=DIR"

`recipe` is the config that all runs start from. `lengths` are in epochs, `batches` in images. The recipe scales the learning
rate with the batch size (configs/sweeps/batch_size.py compares two ways). This sweep ignores `epochs`.
Expected: longer training is always better. Larger batches are better in short training; the gap closes with length. The paper's
figure has no numbers.
"""

from configs.sweeps import common
from launch.sweep_figure import Figure

FIGURE = Figure("lines", {"probe.top1": "linear probe"}, x="epochs", log=True)


def sweep(arg=None):
    args = common.parse(arg, lengths="100 200 400 800", batches="256 512 1024 2048 4096 8192")
    for batch in map(int, args.batches.split()):
        for epochs in map(float, args.lengths.split()):
            # Warm-up takes a tenth of the epochs, and at most the paper's 10.
            setting = {"config.batch_size": batch, "config.epochs": epochs}
            warmup = f"--config.optimizer.warmup_epochs={min(10.0, epochs / 10)}"
            yield from common.runs(args, setting, warmup, place=(f"batch {batch}", epochs))
