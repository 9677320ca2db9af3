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
    place: tuple | None = None,
    paper: float | None = None,
) -> Iterator[dict]:
    """One setting, once for each seed: pretraining, linear evaluation, and what `then` adds. For `launch.sweep`.

    Args:
      args: of `parse`.
      overrides: what tells this setting from others.
      flags: of the pretraining, alike in all runs.
      then: further evaluations, by name.
      place: in the figure, (series, x).
      paper: the published top-1 of linear evaluation, in %.
    """
    published = {} if paper is None else {"probe.top1": round(paper / 100, 5)}
    for seed in range(args.seeds):
        yield {
            "run": " ".join([pretraining(args), *flags]),
            **overrides,
            "config.seed": seed,
            "then": {"probe": probe(args)} | (then or {}),
            "figure": place,
            "paper": published,
        }
