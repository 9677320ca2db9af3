"""How long to train, for each batch size (paper section 5.3, figure 9).

    python -m launch.sweep --sweep=configs/sweeps/epochs.py --workdir=gs://BUCKET/epochs --backend=tpu -- ...
    python -m launch.sweep --workdir=runs/epochs \\
        --sweep="configs/sweeps/epochs.py:recipe=configs/cifar10_small.py,probe=lbfgs_quick,batches=128,lengths=3 10,folder=DIR"

`recipe` is the config that the runs start from; `lengths` are epochs, `batches` are images. The learning rate follows the batch
size as the recipe says (configs/sweeps/batch_size.py compares two ways). `epochs` is not used here.
Expected: longer is better throughout, and larger batches are better where training is short; the gap closes with length.
The figure of the paper has no numbers.
"""

from configs.sweeps import common
from launch.sweep_figure import Figure

FIGURE = Figure("lines", {"probe.top1": "linear probe"}, x="epochs", log=True)


def sweep(arg=None):
    args = common.parse(arg, lengths="100 200 400 800", batches="256 512 1024 2048 4096 8192")
    for batch in map(int, args.batches.split()):
        for epochs in map(float, args.lengths.split()):
            # Warm-up is a tenth of a short training, and the paper's 10 epochs otherwise.
            setting = {"config.batch_size": batch, "config.epochs": epochs}
            warmup = f"--config.optimizer.warmup_epochs={min(10.0, epochs / 10)}"
            yield from common.runs(args, setting, warmup, place=(f"batch {batch}", epochs))
