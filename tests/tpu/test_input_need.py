"""What the hosts have to deliver, and the command that measures what they can."""

import json
import re

import pytest

from simclr_jax.errors import UserError
from simclr_jax.runtime import cli
from simclr_jax.tpu import chips
from simclr_jax.tpu import input_need


@pytest.mark.parametrize(
    ("images_per_s", "verdict"),
    [
        (50_000, "6,250 views/s, which takes 34 of 180 vCPUs with the augmentation on the host, 11 on the device"),
        (50_000, "The host can do it."),
        (
            500_000,
            "333 of 180 vCPUs with the augmentation on the host, 110 on the device (measured). Take --config.augment.where",
        ),
        (900_000, "The input will be too slow either way"),
    ],
)
def test_the_verdict_on_the_input(images_per_s, verdict):
    found = input_need.need("v6e:8x8", images_per_s, (188, 570))
    assert verdict in input_need.sentence("v6e:8x8", found, "measured")


def test_without_rates_the_sentence_says_how_to_get_them():
    found = input_need.need("v4:2x2x4", 1000, None)
    assert (found["hosts"], found["cores_host"]) == (4, None)
    assert "each of 4 hosts has to make 500 views/s. For the cores it takes: --input_rate" in input_need.sentence(
        "v4:2x2x4", found, ""
    )


def test_every_chip_has_its_host():
    assert all(chip.host_chips == 4 and 96 <= chip.host_cores <= 240 for chip in chips.CHIPS.values())


@pytest.mark.usefixtures("at_repository")
def test_the_rate_of_this_machine(capsys):
    rates = cli.call("input_rate", "--config=configs/digits.py", "--seconds=0.2", "--config.batch_size=32")
    assert all(0 < found["per_core"] <= found["views_per_s"] for found in rates.values())
    printed = capsys.readouterr().out
    assert "digits, split train: 1,437 images, views of 16 px" in printed
    assert re.search(r"--input_rate=\d+,\d+ ", printed)
    cli.call("input_rate", "--config=configs/digits.py", "--seconds=0.1", "--config.batch_size=32", "--json")
    assert json.loads(capsys.readouterr().out).keys() == {"host", "device", "cores"}


@pytest.mark.parametrize("words", ["1", "1,2,3", "0,5", "a,b", "1,-2"])
def test_rates_that_are_none_are_refused(words):
    with pytest.raises(UserError, match=f"--input_rate={words}: give two positive numbers"):
        cli.call("plan", "--config=digits", "--topology=v5e:4x4", f"--input_rate={words}")
