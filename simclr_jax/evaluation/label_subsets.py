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


def run_draws(setup: Setup, evaluate_draw: Callable[[np.ndarray, int, epath.Path], dict[str, Any]]) -> dict[str, Any]:
    """Evaluates once for every draw of the labels, and sums up.

    Args:
      setup: its config has `label_seeds`, `label_fraction` and `labels_per_class`.
      evaluate_draw: called with the rows of the training source whose labels may be used, the seed of the draw, and its
        folder `draw_SEED` in the workdir. Returns what `Setup.judge` does, and `step`.

    Returns:
      Means over draws; `top1_std`, the sample standard deviation of top-1 over draws, 0 for a single one; `seconds` of
      all; and each draw's results in `draws`. A draw's results are also in its folder's results.json, the means in
      writers.jsonl and TensorBoard.
    """
    config, draws = setup.config, []
    for seed in config.label_seeds:
        began = time.monotonic()
        folder = setup.workdir / f"draw_{seed}"
        folder.mkdir(parents=True, exist_ok=True)
        rows = subsets.labelled_rows(
            setup.train,
            fraction=config.label_fraction,
            per_class=config.labels_per_class,
            seed=seed,
            ids_file=folder / "labels.json" if distributed.is_primary() else None,
        )
        results = evaluate_draw(rows, seed, folder)
        setup.write_config()
        results |= {"seed": seed, "labels": len(rows), "seconds": time.monotonic() - began}
        writers.write_results(folder, results)
        draws.append(results)
    top1 = np.array([draw["top1"] for draw in draws])
    results = {
        "top1": float(top1.mean()),
        "top5": float(np.mean([draw["top5"] for draw in draws])),
        "mean_per_class": float(np.mean([draw["mean_per_class"] for draw in draws])),
        "n": draws[0]["n"],
        "seconds": time.monotonic() - setup.began,
        "step": draws[0]["step"],
        "top1_std": float(top1.std(ddof=1)) if len(draws) > 1 else 0.0,
        "draws": draws,
    }
    writer = writers.MetricsWriter(setup.workdir)
    writer.write(results["step"], {key: results[key] for key in ("top1", "top5", "top1_std")})
    writer.close()
    return results
