"""Fine-tuning of the whole network on some of the labels (paper section 4.2, appendix B.5), or training from scratch.

    python -m simclr_jax.finetune --pretrained=runs/digits --workdir=runs/digits_10pct --config.label_fraction=0.1
    python -m simclr_jax.finetune --pretrained=runs/digits --workdir=runs/digits_10pct_scratch \\
        --config.label_fraction=0.1 --config.init=random

With several `config.label_seeds` there is one training for each subset of the labels, in `draw_SEED/`, and results.json
has mean and spread. The same command again keeps finished trainings and continues an interrupted one. Each folder has
labels.json (the chosen examples), metrics.jsonl, checkpoints/ and results.json.
"""

from simclr_jax.runtime import cli

if __name__ == "__main__":
    cli.main("finetune")  # answers --help and mistakes before the imports below; does not return


import logging

from etils import epath
from ml_collections import ConfigDict

from simclr_jax import config as config_lib
from simclr_jax.evaluation import label_subsets
from simclr_jax.evaluation.few_labels import FineTuning
from simclr_jax.evaluation.setup import set_up
from simclr_jax.runtime.run_monitor import RunMonitor
from simclr_jax.workdir import writers

log = logging.getLogger("simclr_jax")


def run(config: ConfigDict, workdir: epath.Path, pretrained: str | None, *, monitor: RunMonitor) -> dict:
    """Fine-tunes once for every subset of the labels and returns the content of results.json."""
    setup = set_up(config, workdir, pretrained, config_lib.finetune(), monitor)
    config = setup.config
    results = label_subsets.evaluate_each(setup, FineTuning(setup).run) | {"init": config.init}
    writers.write_results(workdir, results)
    spread = (
        f" (+- {100 * results['top1_std']:.1f} over {len(results['draws'])} draws)" if len(results["draws"]) > 1 else ""
    )
    log.info(
        "%s on %d labels: %.1f %% top-1%s of %d test images.",
        "Fine-tuned" if config.init == "pretrained" else "Trained from scratch",
        results["draws"][0]["labels"],
        100 * results["top1"],
        spread,
        results["n"],
    )
    return results
