"""Builders of TFDS: find a data set, prepare it, or say in seconds that it cannot be downloaded; its image and its label."""

import contextlib
import logging
import socket
from typing import Any
from urllib import parse
from urllib import request

from etils import epath
import numpy as np

from simclr_jax.data.sources.files import expanded
from simclr_jax.errors import UserError
from simclr_jax.runtime.tensorflow import tfds

log = logging.getLogger("simclr_jax")

# For a connection to a server.
TIMEOUT_SECONDS = 5.0
# More servers are not asked: where there is no network, the first one cannot be reached.
SERVERS = 3


def find_builder(name: str | None, data_dir: str | None) -> tfds.core.DatasetBuilder:
    """The builder of a data set that TFDS knows or that is on disk.

    Raises:
      UserError: where it is neither.
    """
    if not name:
        raise UserError(
            'config.data.name is not set: give the name of a TFDS data set, as in "--config.data.name=cifar10".'
        )
    where = _data_dir(data_dir)
    try:
        # None: all folders in which TFDS looks.
        return tfds.builder(name, data_dir=where if data_dir else None)
    except Exception as error:  # TFDS raises many types, some with its whole catalogue as the message
        first = str(error).strip().splitlines()[0]
        raise UserError(f"TFDS does not know the data set {name!r}, nor is it prepared in {where}: {first}") from error


def prepared_builder(name: str | None, data_dir: str | None) -> tfds.core.DatasetBuilder:
    """The builder of a data set that is on disk, after downloading and preparing it if necessary.

    Raises:
      UserError: where it cannot be prepared.
    """
    builder = find_builder(name, data_dir)
    if builder.is_prepared():
        return builder
    where = _data_dir(data_dir)
    _check_reachable(builder, name or "", where)
    log.warning("TFDS %s is not prepared in %s; downloading and preparing it there.", name, where)
    try:
        builder.download_and_prepare()
    except Exception as error:
        raise UserError(
            f"TFDS {name} is not prepared in {where} and could not be downloaded: {error}\n"
            f"Prepare it with `tfds build {name} --data_dir={where}`, or say where it is with --config.data.root=DATA_DIR."
        ) from error
    return builder


def _data_dir(data_dir: str | None) -> str:
    """Where TFDS prepares data sets."""
    return expanded(data_dir or str(tfds.core.constants.DATA_DIR))


def _check_reachable(builder: tfds.core.DatasetBuilder, name: str, where: str) -> None:
    """Refuses a data set that has to be downloaded from servers that cannot be reached, for which TFDS tries for minutes.

    Downloads that are there already are not needed, and a proxy of the environment counts as the network. Of a data set that
    has to be fetched by hand nothing is checked, as TFDS says itself what to do.

    Args:
      builder: of a data set that is not prepared.
      name: of the data set.
      where: the data_dir.

    Raises:
      UserError: with what to do without a network.
    """
    if builder.MANUAL_DOWNLOAD_INSTRUCTIONS:
        return
    needed = [url for url, info in builder.url_infos.items() if not _is_there(url, info, builder.name, where)]
    servers = {parse.urlsplit(url).hostname: url for url in reversed(needed)}
    for host, url in list(servers.items())[-SERVERS:]:
        problem = _connection_problem(url)
        if problem is None:
            continue
        files = ", ".join(
            sorted(info.filename for one, info in builder.url_infos.items() if one in needed and info.filename)
        )
        by_hand = f", or put {files} from there into {where}/downloads/manual" if files else ""
        raise UserError(
            f"TFDS {name} is not prepared in {where}, and {host}, where it is downloaded from, cannot be reached ({problem}). "
            f"Where there is a network, run `tfds build {name} --data_dir=DIR` and copy DIR/{builder.name} to "
            f"{where}/{builder.name}{by_hand}; or name a folder that has it with --config.data.root=DATA_DIR; or take images "
            "from files with --config.data.source=folder."
        )


def _is_there(url: str, info, dataset: str, where: str) -> bool:
    """Whether TFDS has downloaded a file already, or the user has put it into the folder for that."""
    downloads = epath.Path(where).expanduser() / "downloads"
    places = [downloads / "manual" / info.filename] if info.filename else []
    with contextlib.suppress(AttributeError):  # another version of TFDS
        file = tfds.core.download.resource.get_dl_fname(url, info.checksum)
        places += [downloads / dataset / file, downloads / file]
    return any(place.exists() for place in places)


def _connection_problem(url: str) -> str | None:
    """Why the server of a URL, or the proxy for it, cannot be reached; None where it can."""
    parts = parse.urlsplit(url)
    proxy = request.getproxies().get(parts.scheme)
    if proxy and parts.hostname and not request.proxy_bypass(parts.hostname):
        parts = parse.urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    try:
        port = parts.port or {"https": 443, "ftp": 21}.get(parts.scheme, 80)
        socket.create_connection((parts.hostname or "", port), TIMEOUT_SECONDS).close()
    except (OSError, ValueError) as error:
        return getattr(error, "strerror", None) or str(error)
    return None


def feature_keys(builder: tfds.core.DatasetBuilder) -> tuple[str, str | None]:
    """The names of the image and of the label feature.

    The image feature is `image`, or the only image. The label feature is `label`, or the only single label; without one,
    `labels`, or the only list of labels; without one, None.

    Raises:
      UserError: where no image feature can be chosen.
    """

    def find(is_one, preferred):
        keys = [key for key, feature in builder.info.features.items() if is_one(feature)]
        return preferred if preferred in keys else keys[0] if len(keys) == 1 else None

    def is_label(feature) -> bool:
        return isinstance(feature, tfds.features.ClassLabel)

    def is_list_of_labels(feature) -> bool:
        return isinstance(feature, tfds.features.Sequence) and is_label(feature.feature)

    image_key = find(lambda feature: isinstance(feature, tfds.features.Image), "image")
    if image_key is None:
        raise UserError(
            f"TFDS {builder.info.full_name} has no feature `image`, and not exactly one other image feature."
        )
    return image_key, find(is_label, "label") or find(is_list_of_labels, "labels")


def label_of(
    example: dict[str, Any], label_key: str | None, class_names: list[str] | None, multi_label: bool
) -> int | np.ndarray:
    """The class of an example.

    With several, `[classes]`: 1 for each of its classes, -1 if all its objects of that class are difficult, or 0.
    """
    if not multi_label:
        return example[label_key] if label_key else -1
    assert class_names is not None and label_key is not None  # both are there if there are several labels
    classes = np.zeros(len(class_names), np.int32)
    classes[example[label_key]] = 1
    easy = example.get(f"{label_key}_no_difficult")  # the name in TFDS's voc
    if easy is not None:
        classes[np.setdiff1d(example[label_key], easy)] = -1
    return classes
