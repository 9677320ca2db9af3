"""Common parts of the sweeps for the paper's tables."""

from collections.abc import Iterator
import shlex

from ml_collections import ConfigDict

from simclr_jax import config as config_lib
from simclr_jax.errors import UserError


def parse(arg: str | None, **more) -> ConfigDict:
    """Parse the arguments that all these sweeps take, and `more`.

    - `recipe`: the config that all runs start from.
    - `probe`: "sgd", the paper's linear evaluation, "lbfgs" or "lbfgs_quick" (configs/linear_probe.py).
    - `epochs`: of pretraining.
    - `seeds`: the number of runs of each setting.
    - `root`: the data_dir of TFDS.
    - `folder`: a folder of images with train/CLASS/* and test/CLASS/*, to use instead of the recipe's data.

    Raises:
      UserError: for an unknown argument or a wrong value.
    """
    common = {"recipe": "configs/imagenet.py", "probe": "sgd", "epochs": 100.0, "seeds": 1, "root": "", "folder": ""}
    return config_lib.parse_arg(arg, **common, **more)


def parse_pretrained(arg: str | None, sweep: str, **more) -> ConfigDict:
    """Parse the arguments of a sweep that evaluates one pretrained network: `pretrained`, its workdir, and `more`.

    Raises:
      UserError: if `pretrained` is missing. The message names the sweep file, `sweep`.
    """
    args = config_lib.parse_arg(arg, pretrained="", **more)
    if not args.pretrained:
        raise UserError(f"the workdir of a pretraining run is missing: --sweep=configs/sweeps/{sweep}.py:WORKDIR")
    return args


# Arguments of sweeps with a supervised baseline. A rate of 0 means that of configs/supervised.py. A small network or a short
# training needs a larger one.
SUPERVISED = {"supervised_epochs": 90.0, "supervised_batch": 4096, "supervised_rate": 0.0}


def pretraining(args: ConfigDict) -> str:
    """Return the command of pretraining, which is the same for all runs."""
    command = f"pretrain --config={args.recipe} --config.epochs={args.epochs}"
    if args.folder:
        command += " --config.data.source=folder"
    if args.folder or args.root:
        command += " " + shlex.quote(f"--config.data.root={args.folder or args.root}")
    return command


def probe(args: ConfigDict, *flags: str) -> str:
    """Return the command of linear evaluation."""
    return " ".join([f"linear_probe --config=configs/linear_probe.py:{args.probe}", *flags])


def runs(
    args: ConfigDict,
    overrides: dict,
    *flags: str,
    then: dict[str, str] | None = None,
    supervised: str | None = None,
    place: tuple | None = None,
    paper: dict[str, float | None] | None = None,
) -> Iterator[dict]:
    """Yield the runs of one setting for `launch.sweep`: one for each seed, with pretraining and evaluations.

    Args:
      args: the result of `parse`.
      overrides: the config fields of this setting, which name the run.
      flags: of pretraining, the same in all runs.
      then: evaluations besides linear evaluation, by name.
      supervised: the command of `supervised_baseline`, for a stage of that name. It gets the seed of the run, too.
      place: the position in the figure, (series, x).
      paper: the published numbers in %, by the column of our result, such as `probe.top1`; None if there is none.
    """
    published = {column: round(percent / 100, 5) for column, percent in (paper or {}).items() if percent is not None}
    for seed in range(args.seeds):
        baseline = {"supervised": f"{supervised} --config.seed={seed}"} if supervised else {}
        yield {
            "run": " ".join([pretraining(args), *flags]),
            **overrides,
            "config.seed": seed,
            "then": {"probe": probe(args)} | (then or {}) | baseline,
            "figure": place,
            "paper": published,
        }


def supervised_baseline(args: ConfigDict, strength: float = 0.0, blur: bool = False) -> str:
    """Return the command that trains the same network from scratch with labels, with the arguments SUPERVISED of a sweep."""
    options = f"strength={strength},blur={blur},batch={args.supervised_batch},epochs={args.supervised_epochs}"
    rate = f" --config.optimizer.learning_rate={args.supervised_rate}" if args.supervised_rate else ""
    return f"finetune --config=configs/supervised.py:{options}{rate}"
