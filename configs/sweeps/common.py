"""What the sweeps of the paper's tables have in common."""

import shlex

from ml_collections import ConfigDict

from simclr_jax import config as config_lib


def parse(arg: str | None, **more) -> ConfigDict:
    """The arguments that all of them take, and `more`.

    `recipe`: the config that the runs start from. `probe`: "sgd", the paper's linear evaluation, or "lbfgs", which is
    quicker. `epochs` of pretraining. `seeds`: how many runs of each setting. `root`: of the data.
    """
    return config_lib.parse_arg(arg, recipe="configs/imagenet.py", probe="sgd", epochs=100.0, seeds=1, root="", **more)


def pretraining(args: ConfigDict) -> str:
    """The command that all runs begin with."""
    root = f" {shlex.quote(f'--config.data.root={args.root}')}" if args.root else ""
    return f"pretrain --config={args.recipe} --config.epochs={args.epochs}{root}"


def probe(args: ConfigDict, *flags: str) -> str:
    """Linear evaluation."""
    return " ".join([f"linear_probe --config=configs/linear_probe.py:{args.probe}", *flags])
