"""What the sweeps of the paper's tables have in common."""

from collections.abc import Iterator
import shlex

from ml_collections import ConfigDict

from simclr_jax import config as config_lib
from simclr_jax.errors import UserError


def parse(arg: str | None, **more) -> ConfigDict:
    """The arguments that all of them take, and `more`.

    `recipe`: the config that the runs start from. `probe`: "sgd", the paper's linear evaluation, "lbfgs" or
    "lbfgs_quick" (configs/linear_probe.py). `epochs` of pretraining. `seeds`: how many runs of each setting. `root`: TFDS's
    data_dir; or instead of what the recipe names, `folder`: a folder of images, with train/CLASS/* and test/CLASS/*.
    """
    common = {"recipe": "configs/imagenet.py", "probe": "sgd", "epochs": 100.0, "seeds": 1, "root": "", "folder": ""}
    return config_lib.parse_arg(arg, **common, **more)


def parse_pretrained(arg: str | None, sweep: str, **more) -> ConfigDict:
    """The arguments of a sweep over evaluations of one pretrained network: `pretrained`, its workdir, and `more`.

    Raises:
      UserError: where it is missing; `sweep` is the name of the file.
    """
    args = config_lib.parse_arg(arg, pretrained="", **more)
    if not args.pretrained:
        raise UserError(f"it needs the workdir of a pretraining run: --sweep=configs/sweeps/{sweep}.py:WORKDIR")
    return args


# Of sweeps with a supervised baseline. A small or short one needs a larger learning rate than configs/supervised.py's
# (0: that one).
SUPERVISED = {"supervised_epochs": 90.0, "supervised_batch": 4096, "supervised_rate": 0.0}


def pretraining(args: ConfigDict) -> str:
    """The command that all runs begin with."""
    command = f"pretrain --config={args.recipe} --config.epochs={args.epochs}"
    if args.folder:
        command += " --config.data.source=folder"
    if args.folder or args.root:
        command += " " + shlex.quote(f"--config.data.root={args.folder or args.root}")
    return command


def probe(args: ConfigDict, *flags: str) -> str:
    """Linear evaluation."""
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
    """One setting, once for each seed: pretraining, linear evaluation, and what `then` adds. For `launch.sweep`.

    Args:
      args: of `parse`.
      overrides: what tells this setting from others.
      flags: of the pretraining, alike in all runs.
      then: further evaluations, by name.
      supervised: the stage of that name, of `supervised_baseline`; with labels the seed decides as much as without.
      place: in the figure, (series, x).
      paper: what was published, in %, by the column that holds ours, such as `probe.top1`; None where nothing was.
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
    """The same network from scratch with labels, by the arguments SUPERVISED of a sweep."""
    options = f"strength={strength},blur={blur},batch={args.supervised_batch},epochs={args.supervised_epochs}"
    rate = f" --config.optimizer.learning_rate={args.supervised_rate}" if args.supervised_rate else ""
    return f"finetune --config=configs/supervised.py:{options}{rate}"
