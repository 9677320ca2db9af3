"""Evaluate once for every subset of the labels that a config asks for."""

from collections.abc import Callable
import time
from typing import Any

from etils import epath
import numpy as np

from simclr_jax.data import subsets
from simclr_jax.evaluation.setup import Setup
from simclr_jax.runtime import distributed
from simclr_jax.workdir import writers


def evaluate_each(
    setup: Setup, evaluate_subset: Callable[[np.ndarray, int, epath.Path], dict[str, Any]]
) -> dict[str, Any]:
    """Evaluates once for every seed of `config.label_seeds` and averages.

    Args:
      setup: its config has `label_seeds`, `label_fraction` and `labels_per_class`.
      evaluate_subset: called with the rows of the training source whose labels may be used, int `[labels]`, the seed, and
        the folder `draw_SEED` in the workdir. Returns what `Setup.score` does, and `step`.

    Returns:
      Means over the subsets; `top1_std`, the sample standard deviation of top-1 over them (0 for a single one); `seconds`
      in total; and the results of each subset in `draws`. The results of a subset are also in its folder's results.json,
      the means in metrics.jsonl and TensorBoard.
    """
    config = setup.config
    each = [_evaluate_one(setup, evaluate_subset, seed) for seed in config.label_seeds]
    top1 = np.array([results["top1"] for results in each])
    results = {
        "top1": float(top1.mean()),
        "top5": float(np.mean([results["top5"] for results in each])),
        "mean_per_class": float(np.mean([results["mean_per_class"] for results in each])),
        "n": each[0]["n"],
        "seconds": time.monotonic() - setup.began,
        "step": each[0]["step"],
        "top1_std": float(top1.std(ddof=1)) if len(each) > 1 else 0.0,
        "draws": each,
    }
    with writers.MetricsWriter(setup.workdir, trackers=setup.monitor.trackers) as writer:
        writer.write(results["step"], {key: results[key] for key in ("top1", "top5", "top1_std")})
    return results


def _evaluate_one(
    setup: Setup, evaluate_subset: Callable[[np.ndarray, int, epath.Path], dict[str, Any]], seed: int
) -> dict[str, Any]:
    began = time.monotonic()
    folder = setup.workdir / f"draw_{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    rows = subsets.labelled_rows(
        setup.train,
        fraction=setup.config.label_fraction,
        per_class=setup.config.labels_per_class,
        seed=seed,
        ids_file=folder / "labels.json" if distributed.is_primary() else None,
    )
    results = evaluate_subset(rows, seed, folder)
    setup.write_config()
    results |= {"seed": seed, "labels": len(rows), "seconds": time.monotonic() - began}
    writers.write_results(folder, results)
    return results
