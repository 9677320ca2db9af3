"""Contrastive pretraining.

    python -m simclr_jax.pretrain --config=configs/digits.py --workdir=runs/digits

Started again with the same workdir, it continues from the newest checkpoint and ends exactly as if it had not been
interrupted. --init_from=DIR starts a new run from the weights of another one, or of an import. Writes to the workdir:
config.json, environment.json (versions, command line, machine, for each start), views.png (augmented pairs of the first
batch; look at it before a long run), metrics.jsonl, tensorboard/, checkpoints/, curves.png, results.json.
"""

from simclr_jax.runtime import cli
from simclr_jax.workdir import metrics_file

if __name__ == "__main__":
    cli.main("pretrain")  # answers --help and mistakes before the imports below; does not return


from collections.abc import Callable
from collections.abc import Iterator
import logging
import shlex
import time
from typing import Any

from etils import epath
import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from simclr_jax import config as config_lib
from simclr_jax.config import checks as config_checks
from simclr_jax.config import saved as saved_config
from simclr_jax.data import sources
from simclr_jax.data.bad_images import BadImages
from simclr_jax.errors import UserError
from simclr_jax.evaluation import metrics
from simclr_jax.evaluation.forward import run_over
from simclr_jax.evaluation.labelled_data import warn_of_one_class
from simclr_jax.reporting import pictures
from simclr_jax.runtime import distributed
from simclr_jax.runtime import sharding
from simclr_jax.runtime import tensorflow
from simclr_jax.runtime.heartbeat import working
from simclr_jax.runtime.run_monitor import RunMonitor
from simclr_jax.training import advice
from simclr_jax.training import auto
from simclr_jax.training import checkpoint
from simclr_jax.training import initial
from simclr_jax.training import inputs
from simclr_jax.training import loop
from simclr_jax.training import memory
from simclr_jax.training import occupied
from simclr_jax.training import steps
from simclr_jax.training.inputs import Batch
from simclr_jax.training.recipe import PretrainRecipe
from simclr_jax.training.state import TrainState
from simclr_jax.workdir import data_record
from simclr_jax.workdir import runs
from simclr_jax.workdir import writers

log = logging.getLogger("simclr_jax")


def run(
    config: ConfigDict,
    workdir: epath.Path,
    *,
    monitor: RunMonitor,
    init_from: str | None = None,
    init_head: bool = True,
) -> dict:
    """Pretrains and returns the content of results.json.

    `top1` and `top5` are those of the online linear classifier on the test split, or None. A run that has not begun starts
    from the encoder in `init_from`, and from its projection head unless `init_head` is False.

    Raises:
      UserError: for a wrong config or wrong data, before any expensive work.
      NonFiniteLoss, Preempted: see `training.loop.fit`.
    """
    began = time.monotonic()
    source, test_source = _open_data(config)
    data = _check_workdir(config, workdir, source, monitor)
    start = initial.find(init_from, config, workdir, with_head=init_head)
    distributed.check_shared(workdir)
    recipe = _make_recipe(config, source, workdir, monitor)
    config, mesh, total_steps = recipe.config, recipe.mesh, recipe.total_steps
    with checkpoint.Checkpoints(workdir, config) as checkpoints:
        state = checkpoints.restore(initial.load(start, recipe.init_state()))
        start_step = int(state.step)
        distributed.check_agreement(step=str(start_step))
        writers.write_config(workdir, config, monitor.started)
        data_record.write(workdir, data)
        _announce(recipe, source, start_step, monitor, workdir)
        bad_images = BadImages(source, config.data.max_bad_fraction)
        batches = inputs.open_batches(config, source, mesh, start_step, bad_images)
        if start_step == 0:
            batches = _show_views(config, mesh, batches, workdir)
            writers.show_picture(workdir, "views", 0, monitor.trackers)
        test = _online_test(recipe, test_source, monitor) if test_source else None
        state = loop.fit(
            loop.TrainingRun(
                name="pretrain",
                config=config,
                workdir=workdir,
                state=state,
                step_fn=recipe.step,
                total_steps=total_steps,
                batches=batches,
                checkpoints=checkpoints,
                monitor=monitor,
                bad_images=bad_images,
                evaluate=test,
                watch=advice.LearningWatch(config, total_steps),
            )
        )
    results: dict[str, Any] = test(state) if test else {"top1": None, "top5": None, "n": 0}
    results |= {"step": total_steps, "seconds": time.monotonic() - began, "init_from": init_from}
    results["bad_images"] = distributed.sum_over_processes(bad_images.count)
    results["checkpoint"] = str(checkpoints.directory / str(total_steps))
    monitor.disarm()
    return _conclude(results, workdir, config) if distributed.is_primary() else results


def _check_workdir(
    config: ConfigDict, workdir: epath.Path, source: sources.Source, monitor: RunMonitor
) -> dict[str, Any]:
    """What `data.json` will say of the images. Moves damaged checkpoints away.

    Raises:
      UserError: for a workdir among the images, of another run, or of a run on other images.
    """
    occupied.check(workdir, config)
    distributed.check_agreement(config=saved_config.to_json(config), training_set=sources.identity(source))
    sources.check_outside(workdir, config.data, source)
    checkpoint.set_aside_damaged(workdir)
    data = {"training images": sources.fingerprint(source)}
    if not checkpoint.begun(workdir):
        return data
    return data_record.check(workdir, data, accept=monitor.accept_new_data)


def _make_recipe(
    config: ConfigDict, source: sources.Source, workdir: epath.Path, monitor: RunMonitor
) -> PretrainRecipe:
    """The recipe, with numbers for what the config leaves to "auto". The step of a new run is being compiled.

    Raises:
      UserError: for a batch or a schedule that does not fit the images, or where nothing fits in the memory.
    """
    earlier = initial.config_of_run(workdir)
    config = auto.resolve(
        config, source.num_examples, jax.device_count(), jax.default_backend(), earlier
    ).copy_and_resolve_references()
    saved_config.settle_decoding(config, earlier)
    if config.batch_size > source.num_examples:
        raise UserError(
            f"config.batch_size is {config.batch_size}, but {source.name} has only {source.num_examples} images: an image "
            f"would be its own negative. Take at most {source.num_examples}."
        )
    recipe = PretrainRecipe(config, sharding.make_mesh(config.mesh), source.num_examples, _num_classes(config, source))
    _ = recipe.total_steps  # refuses a schedule that does not fit, before anything is compiled
    if config.microbatches == "auto":
        return memory.with_microbatches(recipe, workdir)
    # The shapes of resident images, and of several labels of an image, are known with the first batch only.
    shapes_known = not config.data.resident and not source.multi_label
    if monitor.memory_check and shapes_known and not (workdir / "results.json").exists():
        memory.compile_ahead(recipe.step, recipe.abstract_state(), recipe.abstract_batch())
    return recipe


def _open_data(config: ConfigDict) -> tuple[sources.Source, sources.Source | None]:
    """The training images, and where there are labels to test the online classifier with, the test images.

    Raises:
      UserError: for a wrong config, and for data that does not suit it.
    """
    config_checks.check_fields(config, config_lib.pretrain())
    hint = "set it in the config file or on the command line."
    config_checks.require(config, "data.source", "data.image_size", "data.eval_crop", "model.depth", hint=hint)
    config_checks.check_values(config, jax.device_count())
    if not config.data.resident:
        tensorflow.check_installed()
    source = sources.open_source(config.data, "train")
    if config.data.resident and not isinstance(source, sources.RandomAccess):
        raise UserError(
            f"config.data.resident: {source.name} is larger than config.data.memory_mib={config.data.memory_mib}; raise that "
            "if the devices can hold all images decoded."
        )
    if not _has_classes(config, source):
        return source, None
    warn_of_one_class(source, "the online classifier is always right")
    return source, _open_test(config, source)


def _has_classes(config: ConfigDict, source: sources.Source) -> bool:
    """Whether an online classifier is trained: each image has one class, and the config wants it."""
    return bool(config.online_classifier) and source.class_names is not None and not source.multi_label


def _num_classes(config: ConfigDict, source: sources.Source) -> int | None:
    """Of the online classifier; None where there is none."""
    return len(source.class_names or ()) if _has_classes(config, source) else None


def _open_test(config: ConfigDict, source: sources.Source) -> sources.Source | None:
    try:
        test_source = sources.open_source(config.data, "test")
        sources.check_same_classes(source, test_source)
    except UserError as error:
        log.info("The online classifier will not be tested: %s", error)
        return None
    return test_source


def _announce(
    recipe: PretrainRecipe, source: sources.Source, start_step: int, monitor: RunMonitor, workdir: epath.Path
) -> None:
    config = recipe.config
    monitor.trackers.start(workdir, saved_config.flatten(config))
    log.info(
        "Pretraining a ResNet-%d (%gx) on %d images of %s: %d steps of %d images on %d %s device(s)%s.",
        config.model.depth,
        config.model.width,
        source.num_examples,
        source.name,
        recipe.total_steps,
        config.batch_size,
        jax.device_count(),
        jax.default_backend(),
        f", from step {start_step}" if start_step else "",
    )
    advice.warn_before(config, recipe.total_steps)


def _show_views(config: ConfigDict, mesh: Mesh, batches: Iterator[Batch], workdir: epath.Path) -> Iterator[Batch]:
    """Draws the first views to views.png; returns the same batches, the first one included."""
    with working("waiting for the first batch"):
        first = next(batches)
    views = inputs.look(config, mesh, first, step=0)
    if distributed.is_primary():
        pictures.contact_sheet(views, workdir / "views.png")
        log.info("%s shows the views that the network will see.", workdir / "views.png")
    return _joined(first, batches)


def _joined(first: Batch, rest: Iterator[Batch]) -> Iterator[Batch]:
    """Like `itertools.chain`, but its `close` closes `rest`."""
    yield first
    yield from rest


def _online_test(
    recipe: PretrainRecipe, test_source: sources.Source, monitor: RunMonitor
) -> Callable[[TrainState], dict[str, float]]:
    """A function that scores the online classifier on the test images."""
    config = recipe.config

    def classify(model, images):
        return model.classifier(model.encoder(images, train=False))

    forward = steps.make_forward(recipe.graph, classify, recipe.mesh)

    def test(state: TrainState) -> dict[str, float]:
        outputs = run_over(
            forward,
            state.params,
            state.batch_stats,
            test_source,
            data=config.data,
            batch_size=config.batch_size,
            mesh=recipe.mesh,
            stop=monitor.poll,
        )
        return metrics.accuracy(outputs.values, outputs.labels)

    return test


def _conclude(results: dict, workdir: epath.Path, config: ConfigDict) -> dict:
    """Draws the curves, writes results.json and says how it went."""
    lines = metrics_file.read(workdir / "metrics.jsonl")
    pictures.curves(lines, workdir / "curves.png", advice.chance_levels(config))
    last = lines[-1] if lines and lines[-1]["step"] == results["step"] else {}
    names = ("loss", "contrastive_top1", "contrastive_top5", "contrastive_entropy")
    if not last.keys() >= set(names):
        log.warning("metrics.jsonl lacks the last step: results.json keeps the loss that it has.")
        last = runs.read_results(workdir) or {}
    results |= {name: last.get(name) for name in names}
    writers.write_results(workdir, results)
    online = "" if results["top1"] is None else f"; online linear classifier {results['top1']:.1%} on the test split"
    loss = float(results["loss"] or "nan")
    log.info("Pretrained in %.0f s: loss %.4f%s. The encoder is in %s.", results["seconds"], loss, online, workdir)
    log.info(
        "Use it: simclr_jax.load(%r).embed(images) in Python, or python -m simclr_jax.embed --pretrained=%s --images=FOLDER "
        "--output=vectors.parquet",
        str(workdir),
        shlex.quote(str(workdir)),
    )
    return results
