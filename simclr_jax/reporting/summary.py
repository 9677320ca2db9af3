"""What came out, in plain sentences: the first section of a report."""

from collections.abc import Sequence
import logging
from typing import Any

from etils import epath

from simclr_jax.config import chance
from simclr_jax.errors import UserError
from simclr_jax.reporting.parts import Part
from simclr_jax.reporting.parts import Section
from simclr_jax.runtime import files
from simclr_jax.workdir import data_record
from simclr_jax.workdir import runs as saved_runs
from simclr_jax.workdir.runs import SavedRun

log = logging.getLogger("simclr_jax")

VERDICT = "verdict.json"
HOW_TO = (
    "There is no verdict without labels yet: python -m simclr_jax.verdict --pretrained=WORKDIR writes one, and the next report "
    "shows it."
)
# Evaluations that a sentence is about.
_SENTENCES = {
    "linear probe": "A linear classifier on its representations is right for {now} of the test images{before}.",
    "nearest neighbours": "The nearest neighbours give the right class to {now} of the test images{before}.",
}


def summary(runs: list[SavedRun]) -> Section:
    """A paragraph about each pretraining run: its steps, its loss against guessing, its evaluations, its verdict."""
    parts = []
    for run in (run for run in runs if run.kind == "pretraining"):
        sentences = [_training(run), *_evaluations(run, runs), *_verdict(run)]
        parts.append(Part(heading="pretraining", run=run.name, text=" ".join(sentences)))
    return Section("What came out", "", parts)


def shared_chance(runs: Sequence[SavedRun]) -> dict[str, float] | None:
    """What guessing reaches in some runs; None where it is not the same in all of them, or they are no pretraining."""
    found = [_chance(run) for run in runs]
    return found[0] if found and all(one == found[0] for one in found) else None


def _chance(run: SavedRun) -> dict[str, float] | None:
    if run.kind != "pretraining":
        return None
    return chance.levels(run.config["loss.name"], run.config["batch_size"])


def _training(run: SavedRun) -> str:
    last: dict[str, Any] = next((line for line in reversed(run.metrics) if "loss" in line), {})
    if not last:
        return "This run has no metrics yet."
    network = f"a ResNet-{run.config['model.depth']} ({run.config['model.width']:g}x)"
    done = "has been trained" if run.results else "is in training, so far"
    text = (
        f"{network[0].upper()}{network[1:]} {done} for {last['step']:,} steps of {run.config['batch_size']:,} images."
    )
    levels, top1 = _chance(run) or {}, last.get("contrastive_top1")
    if "loss" in levels:
        side = "below" if last["loss"] < levels["loss"] else "NOT below"
        text += f" Its loss is {last['loss']:.2f}, {side} the {levels['loss']:.2f} of guessing."
    if top1 is not None:
        batch, guess = run.config["batch_size"], levels["contrastive_top1"]
        text += (
            f" For {top1:.0%} of the views it finds the right one of {batch:,} images; guessing would for {guess:.1%}."
        )
    return text


def _evaluations(run: SavedRun, runs: list[SavedRun]) -> list[str]:
    sentences = []
    for evaluation, untrained in saved_runs.baselines(runs):
        of_h = evaluation.kind in _SENTENCES and evaluation.config["features"] == "h"
        now, before = (((one.results if one else None) or {}).get("top1") for one in (evaluation, untrained))
        if of_h and _is_of(evaluation, run) and now is not None and _has_its_weights(evaluation):
            compared = "" if before is None else f", on the same network untrained for {before:.1%}"
            sentences.append(_SENTENCES[evaluation.kind].format(now=f"{now:.1%}", before=compared))
    return sentences


def _is_of(evaluation: SavedRun, run: SavedRun) -> bool:
    """Whether an evaluation is of the encoder in the workdir of this run."""
    return str(evaluation.config.get("pretrained") or "").startswith(f"{run.path}/")


def _has_its_weights(evaluation: SavedRun) -> bool:
    """Whether the checkpoint that was evaluated is still the same. Warns where it is not."""
    encoder = epath.Path(evaluation.config["pretrained"])
    if data_record.is_of_files(data_record.read(evaluation.path), encoder):
        return True
    log.warning("%s is of weights that are no longer in %s: it is left out of what came out.", evaluation.path, encoder)
    return False


def _verdict(run: SavedRun) -> list[str]:
    path = run.path / VERDICT
    if not path.exists():
        return [HOW_TO] if run.results else []
    remedy = "the verdict is left out; simclr_jax.verdict writes it again"
    try:
        verdict = files.read_json(path, remedy)
        with files.damage_of(path, remedy):
            encoder = epath.Path(verdict.get("pretrained", run.path))
            if not data_record.is_of_files(verdict, encoder):
                log.warning("%s is of weights that are no longer in %s: %s.", path, encoder, remedy)
                return []
            score = (
                f"The score without labels is {verdict['score']:.2f} of 1, untrained {verdict['score_untrained']:.2f}."
            )
            return [*(statement["text"] for statement in verdict["statements"]), score]
    except UserError as error:
        log.warning("%s", error)
        return []
