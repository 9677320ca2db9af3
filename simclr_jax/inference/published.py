"""An encoder for others: a workdir with its weights only, and a model card in the layout of the Hugging Face Hub."""

from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import importlib.resources
import logging
from typing import Any

from etils import epath
import jax
import jinja2
from ml_collections import ConfigDict
import yaml

from simclr_jax.config import KINDS
from simclr_jax.config import saved as saved_config
from simclr_jax.inference.encoder import Encoder
from simclr_jax.runtime import files
from simclr_jax.training import checkpoint
from simclr_jax.workdir import data_record
from simclr_jax.workdir import runs

log = logging.getLogger("simclr_jax")

# Blocks of a config that the card shows as a table.
_SHOWN = ("batch_size", "epochs", "optimizer.", "loss.", "model.", "head.", "protocol", "features", "label_fraction")
_SUMMARIES = {
    "pretrain": "trained without labels",
    "linear_probe": "trained without labels, with a linear classifier on its frozen features",
    "finetune": "fine-tuned with labels",
    "distill": "trained on the predictions of a fine-tuned teacher",
    "transfer": "fine-tuned on another data set",
}
_METRICS = {
    "top1": ("accuracy", "top-1"),
    "mean_per_class": ("mean_per_class_accuracy", "mean per class"),
    "map11": ("mean_average_precision", "11-point mAP"),
}


@dataclasses.dataclass(frozen=True)
class Export:
    """The export that a card describes.

    Attributes:
      name: of the model.
      place: what `simclr_jax.load` loads.
      format: of the export.
      snippet: Python that loads it without simclr_jax.
      input: a sentence about the images that it takes.
      license: an identifier of the Hub such as "apache-2.0"; None where none was given.
      proof: a sentence about how the export was checked.
    """

    name: str
    place: str
    format: str
    snippet: str
    input: str
    license: str | None
    proof: str = ""


@dataclasses.dataclass(frozen=True)
class Result:
    """One number of an evaluation of the encoder; `data` describes the images, `dataset` is their short name."""

    title: str
    data: str
    dataset: str
    labels: str
    kind: str
    metric: str
    value: float
    text: str
    images: int


def write_workdir(encoder: Encoder, workdir: epath.Path) -> None:
    """Writes a workdir that `simclr_jax.load` and the commands read: one checkpoint, without the optimiser's state.

    The classifier of a probe is in the checkpoint. Folders of this machine are not in the config.
    """
    saved = encoder.saved
    config = _public(saved.config)
    if saved.head is not None:
        with config.unlocked():
            config.head = saved.head
    checkpoint.write(workdir, config, encoder.step, jax.device_get(encoder.variables), saved.class_names)
    if not (workdir / "config.json").exists():  # timm has a file of this name
        (workdir / "config.json").write_text(saved_config.to_json(config))


def _public(config: ConfigDict) -> ConfigDict:
    """The config with names instead of the folders of this machine, which are nobody else's business."""
    config = config.copy_and_resolve_references()
    with config.unlocked():
        config.data.root = (
            epath.Path(config.data.root).name
            if config.data.root and config.data.source in ("folder", "records")
            else None
        )
        config.data.labels = epath.Path(config.data.labels).name if config.data.get("labels") else None
        for field in ("pretrained", "teacher"):
            if config.get(field):
                path = epath.Path(config[field])
                config[field] = (checkpoint.workdir_of(path) or path).name
    return config


def front_matter(encoder: Encoder, export: Export) -> str:
    """The YAML at the beginning of a card, without the lines of dashes."""
    return _front_matter(encoder, export, _configs(encoder), _results(encoder))


def _front_matter(
    encoder: Encoder, export: Export, configs: Mapping[str, ConfigDict], results: Sequence[Result]
) -> str:
    classifies = encoder.class_names is not None
    tags = ["simclr", "self-supervised-learning", "contrastive-learning", "resnet", "jax", "flax", export.format]
    fields: dict[str, Any] = {
        "library_name": "simclr_jax",
        "pipeline_tag": "image-classification" if classifies else "image-feature-extraction",
        "tags": tags,
    }
    if export.license:
        fields["license"] = export.license
    names = [config.data.name.partition(":")[0] for config in configs.values() if config.data.source == "tfds"]
    if names:
        fields["datasets"] = sorted(set(names))
    if results:
        fields["metrics"] = sorted({result.kind for result in results})
        fields["model-index"] = [{"name": export.name, "results": [_indexed(result) for result in results]}]
    return yaml.safe_dump(fields, sort_keys=False, allow_unicode=True)


def _indexed(result: Result) -> dict[str, Any]:
    return {
        "task": {"type": "image-classification", "name": result.title},
        "dataset": {"type": result.dataset, "name": result.data},
        "metrics": [{"type": result.kind, "name": result.metric, "value": round(result.value, 6)}],
    }


def card(encoder: Encoder, export: Export) -> str:
    """The text of README.md."""
    configs, results = _configs(encoder), _results(encoder)
    first = next(iter(configs.values()))
    text = (importlib.resources.files("simclr_jax.inference") / "templates" / "model_card.md.j2").read_text()
    template = jinja2.Environment(keep_trailing_newline=True, undefined=jinja2.StrictUndefined).from_string(text)
    return template.render(
        **dataclasses.asdict(export),
        front_matter=_front_matter(encoder, export, configs, results),
        summary=_summary(encoder),
        size=first.data.image_size,
        num_features=encoder.num_features,
        class_names=list(encoder.class_names or ()),
        data_of_runs=[(title, _data(saved_config.flatten(config), "train")) for title, config in configs.items()],
        results=results,
        settings=[(title, _settings(config)) for title, config in configs.items()],
        configs=[(title, saved_config.to_json(_public(config))) for title, config in configs.items()],
        step=encoder.step,
    )


def _summary(encoder: Encoder) -> str:
    config, made_by = encoder.saved.config, encoder.saved.checkpoint
    network = f"A ResNet-{config.model.depth} ({config.model.width:g}x)"
    record = made_by.parent.parent / "import.json" if made_by is not None else None
    source = (
        files.read_json(record, "the same command of simclr_jax.import_weights writes it again")
        if record is not None and record.exists()
        else {}
    )
    if "source" in source and "what" in source:
        return f"{network}, imported from {epath.Path(source['source']).name}, {source['what']}."
    return f"{network}, {_SUMMARIES[config.kind]}."


def _configs(encoder: Encoder) -> dict[str, ConfigDict]:
    """The config of the run, and of the pretraining that it evaluated or started from, by the title of its kind."""
    own = encoder.saved.config
    found = {KINDS[own.kind].title: own}
    place = own.get("pretrained") if own.get("init") == "pretrained" else None
    before = checkpoint.newest(epath.Path(place)) if place else None
    folder = _workdir(encoder)
    if before is not None and (folder is None or _is_of(folder, before, "the config of that one is left out")):
        config = checkpoint.load_own_config(before)
        found.setdefault(KINDS[config.kind].title, config)
    return found


def _settings(config: ConfigDict) -> dict[str, Any]:
    flat = saved_config.flatten(config)
    return {field: value for field, value in flat.items() if field.startswith(_SHOWN) and value is not None}


def _data(config: dict[str, Any], split: str) -> str:
    """The training or test images ("train", "test") of a run with this flat config."""
    source = config.get("data.source")
    name = config.get("data.name") or source
    if source in ("folder", "records"):
        name = f"the folder {epath.Path(config['data.root']).name}"
    of_split = config.get(f"data.{split}_split")
    return str(name or "not known") + (f", {of_split}" if of_split else "")


def _results(encoder: Encoder) -> list[Result]:
    """Of the run itself, where it evaluates, and of the runs beside it, or beside its pretraining, that used this encoder."""
    place, made_by = epath.Path(encoder.path), encoder.saved.checkpoint
    of_checkpoint = made_by.parent.parent.parent if made_by is not None else None
    own = next((folder for folder in (place, *list(place.parents)[:2]) if (folder / "results.json").exists()), None)
    found = runs.evaluations(made_by, [of_checkpoint]) if made_by is not None and of_checkpoint is not None else []
    found = [run for run in found if made_by is not None and _is_of(run.path, made_by, "its results are left out")]
    if encoder.class_names is not None and own is not None and all(run.path not in (own, own.parent) for run in found):
        config = saved_config.flatten(encoder.saved.config)
        title = KINDS[encoder.saved.config.kind].title
        found.insert(0, runs.SavedRun(own.name, own, config, title, runs.read_results(own, config)))
    return [result for run in found for result in _of_run(run)]


def _is_of(evaluation: epath.Path, encoder: epath.Path, otherwise: str) -> bool:
    """Whether an evaluation is of the weights that a checkpoint has now. Warns where it is not."""
    record = data_record.read(evaluation) or {}
    if not checkpoint.changed(encoder, "encoder", record.get("encoder")):
        return True
    log.warning("%s is of an encoder with other weights than the one in %s: %s.", evaluation, encoder, otherwise)
    return False


def _workdir(encoder: Encoder) -> epath.Path | None:
    """The workdir of the run that made an encoder or its classifier: the first folder above its weights with a config."""
    place = epath.Path(encoder.path)
    return next((folder for folder in (place, *list(place.parents)[:3]) if (folder / "config.json").exists()), None)


def _of_run(run: runs.SavedRun) -> Sequence[Result]:
    results = run.results or {}
    metric = results.get("metric", "top1")
    if metric not in _METRICS or results.get(metric) is None:
        return []  # of a run without labels, or of another kind
    kind, name = _METRICS[metric]
    draws = results.get("draws") or []
    spread = f" +- {100 * results['top1_std']:.1f} over {len(draws)} label subsets" if len(draws) > 1 else ""
    labels = results.get("labels") or (draws[0]["labels"] if draws else "")
    source = run.config.get("data.name") or run.config.get("data.source")
    features = run.config.get("features", "h")
    return [
        Result(
            title=run.kind + (f" on {features}" if features != "h" else ""),
            data=_data(run.config, "test"),
            dataset=str(source),
            labels=str(labels),
            kind=kind,
            metric=name,
            value=results[metric],
            text=f"{100 * results[metric]:.1f} %{spread}",
            images=results["n"],
        )
    ]
