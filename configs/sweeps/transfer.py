"""Transfer of one pretrained network to the twelve data sets of the paper (section 4.2, table 8).

    python -m launch.sweep --sweep=configs/sweeps/transfer.py:runs/imagenet --workdir=runs/transfer
    python -m launch.sweep --workdir=runs/transfer_finetuned --backend=slurm \\
        --sweep=configs/sweeps/transfer.py:runs/imagenet,protocol=finetune,root=/data/tfds -- --partition=gpu --gpus=1

The first argument is the workdir of the pretraining run. `datasets` are names of configs/transfer.py. The default is all except
the two that TFDS does not have, which need folders. `init=random` evaluates the same network untrained.
"""

import shlex

from configs import transfer
from configs.sweeps import common


def sweep(arg=None):
    known = [name for name, (tfds_name, *_) in transfer.DATASETS.items() if tfds_name]
    args = common.parse_pretrained(
        arg, "transfer", datasets=" ".join(known), protocol="lbfgs", init="pretrained", root=""
    )
    for name in args.datasets.split():
        options = f"protocol={args.protocol}" + (f",root={args.root}" if args.root else "")
        config, pretrained = f"--config=configs/transfer.py:{name},{options}", f"--pretrained={args.pretrained}"
        yield {
            "run": f"transfer {shlex.quote(config)} {shlex.quote(pretrained)}",
            # The config has this value already. It is repeated as an override, because overrides name the runs.
            "config.data.name": transfer.DATASETS[name][0] or name,
            "config.init": args.init,
        }
