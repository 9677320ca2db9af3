"""Contrastive pretraining.

    python -m simclr_jax.pretrain --config=configs/digits.py --workdir=runs/digits

Started again with the same workdir, it continues from the newest checkpoint and ends exactly as if it had not been
interrupted. Writes to the workdir: config.json, views.png (augmented pairs of the first batch; look at it before a long
run), writers.jsonl, tensorboard/, checkpoints/, curves.png, results.json.
"""

import itertools
import logging
import time

from etils import epath
import jax
from ml_collections import ConfigDict

from simclr_jax import config as config_lib
from simclr_jax.config import checks as config_checks
from simclr_jax.config import saved as saved_config
from simclr_jax.data import pipeline
from simclr_jax.data import sources
from simclr_jax.data.resident import Resident
from simclr_jax.errors import UserError
from simclr_jax.evaluation import metrics
from simclr_jax.evaluation.forward import run_over
from simclr_jax.models.networks import SimCLR
from simclr_jax.reporting import pictures
from simclr_jax.runtime import cli
from simclr_jax.runtime import distributed
from simclr_jax.runtime import sharding
from simclr_jax.runtime.run_monitor import RunMonitor
from simclr_jax.training import checkpoint
from simclr_jax.training import inputs
from simclr_jax.training import loop
from simclr_jax.training import optim
from simclr_jax.training import state as state_lib
from simclr_jax.training import steps
from simclr_jax.workdir import writers

log = logging.getLogger("simclr_jax")


def run(config: ConfigDict, workdir: epath.Path, *, monitor: RunMonitor) -> dict:
    """Pretrains and returns what stands in results.json.

    `top1` and `top5` there are those of the online linear classifier on the test split, None where there is none.
    """
    began = time.monotonic()

    # What the run is, checked before anything is computed.
    config_checks.check_fields(config, config_lib.pretrain())
    hint = "set it in the config file or on the command line."
    config_checks.require(config, "data.source", "data.image_size", "data.eval_crop", "model.depth", hint=hint)
    config_checks.check_values(config, jax.device_count())
    source = sources.open_source(config.data, "train")
    if config.data.resident and not isinstance(source, sources.RandomAccess):
        raise UserError(
            f"config.data.resident: {source.name} is larger than config.data.memory_mib={config.data.memory_mib}; raise that "
            "if the devices can hold all images decoded."
        )
    if config.batch_size > source.num_examples:
        raise UserError(
            f"config.batch_size is {config.batch_size}, but {source.name} has only {source.num_examples} images: an image "
            f"would be its own negative. Take at most {source.num_examples}."
        )
    one_class_each = source.class_names is not None and not source.multi_label
    num_classes = len(source.class_names) if one_class_each and config.online_classifier else None
    test_source = _test_source(config, source) if num_classes else None
    distributed.check_agreement(config=saved_config.to_json(config), training_set=sources.identity(source))
    total_steps = optim.total_steps(source.num_examples, config.batch_size, config.epochs)
    schedule = optim.make_schedule(
        config.optimizer, batch_size=config.batch_size, num_examples=source.num_examples, steps=total_steps
    )

    # Network, optimiser, state: initial, or that of the newest checkpoint.
    mesh = sharding.make_mesh(config.mesh)
    optimizer = optim.make_optimizer(config.optimizer, schedule)

    def make_model(rngs):
        return SimCLR(config, num_classes, rngs=rngs)

    graph = state_lib.graph_of(make_model)
    state = state_lib.new_state(*state_lib.init_variables(make_model, config.seed, mesh), optimizer, mesh)
    distributed.check_shared(workdir)
    checkpoints = checkpoint.Checkpoints(workdir, config)
    state = checkpoints.restore(state)
    start_step = int(state.step)
    distributed.check_agreement(step=str(start_step))
    writers.write_atomically(workdir / "config.json", saved_config.to_json(config))
    log.info(
        "Pretraining a ResNet-%d (%gx) on %d images of %s: %d steps of %d images on %d %s device(s)%s.",
        config.model.depth,
        config.model.width,
        source.num_examples,
        source.name,
        total_steps,
        config.batch_size,
        jax.device_count(),
        jax.default_backend(),
        f", from step {start_step}" if start_step else "",
    )

    # Data, from the step where the state stands.
    bad_images = pipeline.BadImages(source, config.data.max_bad_fraction)
    if config.data.resident:
        batches = itertools.repeat(Resident.load(source, mesh))
    else:
        host_batches = pipeline.train_batches(
            source,
            config.augment,
            num_views=2,
            size=config.data.image_size,
            shard=pipeline.local_shard(mesh, config.batch_size, start_step),
            seed=config.seed,
            bad_images=bad_images,
        )
        batches = inputs.global_batches(host_batches, mesh)
    if start_step == 0:
        first = next(batches)
        batches = itertools.chain([first], batches)
        views = inputs.look(config, mesh, first, start_step)
        if distributed.is_primary():
            pictures.contact_sheet(views, workdir / "views.png")
            log.info("%s shows the views that the network will see.", workdir / "views.png")

    # The online classifier on the test split, where there is one.
    forward = steps.make_forward(
        graph, lambda model, images: model.classifier(model.encoder(images, train=False)), mesh
    )

    def test_accuracy(state: state_lib.TrainState) -> dict[str, float]:
        outputs = run_over(
            forward,
            state.params,
            state.batch_stats,
            test_source,
            data=config.data,
            batch_size=config.batch_size,
            mesh=mesh,
            stop=monitor.poll,
        )
        return metrics.accuracy(outputs.values, outputs.labels)

    # Training.
    writer = writers.MetricsWriter(workdir, start_step)
    state = loop.fit(
        state,
        steps.make_pretrain_step(graph, optimizer, schedule, config, mesh),
        batches,
        start_step=start_step,
        total_steps=total_steps,
        batch_size=config.batch_size,
        log_every=config.log_every_steps,
        checkpoint_every=config.checkpoint.every_steps,
        checkpoints=checkpoints,
        writer=writer,
        bad_images=bad_images,
        monitor=monitor,
        name="pretrain",
        evaluate=test_accuracy if test_source else None,
        evaluate_every=config.evaluate_every_steps,
    )
    writer.close()
    checkpoints.close()

    # What came of it.
    results = {"top1": None, "top5": None, "n": 0}
    if test_source is not None:
        results = test_accuracy(state)
    results |= {
        "step": total_steps,
        "seconds": time.monotonic() - began,
        "bad_images": distributed.sum_over_processes(bad_images.count),
        "checkpoint": str(checkpoints.directory / str(total_steps)),
    }
    monitor.disarm()
    if not distributed.is_primary():
        return results
    lines = writers.read_metrics(workdir / "metrics.jsonl")
    pictures.curves(lines, workdir / "curves.png")
    results |= {key: lines[-1][key] for key in ("loss", "contrastive_top1", "contrastive_top5", "contrastive_entropy")}
    writers.write_results(workdir, results)
    online = "" if results["top1"] is None else f"; online linear classifier {results['top1']:.1%} on the test split"
    log.info(
        "Pretrained in %.0f s: loss %.4f%s. The encoder is in %s.", results["seconds"], results["loss"], online, workdir
    )
    return results


def _test_source(config: ConfigDict, source: sources.Source) -> sources.Source | None:
    try:
        test_source = sources.open_source(config.data, "test")
    except UserError as error:
        log.info("The online classifier will not be tested: %s", error)
        return None
    sources.check_same_classes(source, test_source)
    return test_source


BINARY = cli.Binary(run, default_config=None, pretrained=False)

if __name__ == "__main__":
    BINARY.main()
