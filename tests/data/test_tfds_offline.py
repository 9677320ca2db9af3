"""A TFDS data set that is not here, without a network: an error in seconds, with what to do."""

import socket
import time

import pytest

from simclr_jax import config as config_lib
from simclr_jax.data import sources
from simclr_jax.data.sources import tfds_builder
from simclr_jax.errors import UserError
from simclr_jax.runtime.tensorflow import tfds

URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"


def opened(root, name="cifar10"):
    data = config_lib.pretrain().data
    data.update(source="tfds", name=name, root=str(root), image_size=8, eval_crop=1.0)
    return sources.open_source(data, "train")


@pytest.fixture
def no_download(monkeypatch):
    """Downloading is noted and fails; no proxy is set."""
    begun = []

    def download(self, **options):
        begun.append(self.name)
        raise ConnectionError("this is a test")

    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", download)
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    return begun


@pytest.fixture
def offline(monkeypatch, no_download):
    def unresolved(*arguments, **options):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unresolved)
    return no_download


def test_without_a_network_it_fails_at_once_and_says_what_to_do(tmp_path, offline):
    began = time.monotonic()
    with pytest.raises(UserError) as caught:
        opened(tmp_path)
    assert time.monotonic() - began < 10, "TFDS takes 204 s"
    message = str(caught.value)
    assert "\n" not in message
    for part in (
        f"cifar10 is not prepared in {tmp_path}, and www.cs.toronto.edu",
        "cannot be reached (Name or service not known)",
        "`tfds build cifar10 --data_dir=DIR`",
        f"copy DIR/cifar10 to {tmp_path}/cifar10",
        f"put cifar-10-binary.tar.gz from there into {tmp_path}/downloads/manual",
        "--config.data.root=DATA_DIR",
        "--config.data.source=folder",
    ):
        assert part in message
    assert offline == []


@pytest.mark.parametrize("where", ["manual", "cache"])
def test_files_that_are_there_need_no_network(tmp_path, offline, where):
    builder = tfds_builder.find_builder("cifar10", str(tmp_path))
    info = builder.url_infos[URL]
    name = info.filename if where == "manual" else tfds.core.download.resource.get_dl_fname(URL, info.checksum)
    file = tmp_path / "downloads" / ("manual" if where == "manual" else "cifar10") / name
    file.parent.mkdir(parents=True)
    file.write_bytes(b"")
    with pytest.raises(UserError, match="could not be downloaded: this is a test"):
        opened(tmp_path)
    assert offline == ["cifar10"]


def test_data_that_is_fetched_by_hand_keeps_the_instructions_of_tfds(tmp_path, offline):
    with pytest.raises(UserError, match="could not be downloaded"):
        opened(tmp_path, "imagenet2012_subset/1pct")
    assert offline == ["imagenet2012_subset"]


def test_a_proxy_is_the_network(tmp_path, no_download, monkeypatch):
    with socket.create_server(("localhost", 0)) as server:
        port = server.getsockname()[1]
        monkeypatch.setenv("https_proxy", f"http://localhost:{port}")
        with pytest.raises(UserError, match="could not be downloaded: this is a test"):
            opened(tmp_path)
    assert no_download == ["cifar10"]
    with pytest.raises(
        UserError, match=r"www.cs.toronto.edu.* cannot be reached \(.*refused"
    ):  # the port is closed now
        opened(tmp_path)
    assert no_download == ["cifar10"]
