"""Batch, epochs and warm-up by the number of images."""

from helpers import LAWS
from hypothesis import given
from hypothesis import strategies as st
import pytest

from simclr_jax import config as config_lib
from simclr_jax.config import checks
from simclr_jax.errors import UserError
from simclr_jax.training import by_images
from simclr_jax.training import optim


def resolved(num_images, device_count=1, earlier=None, **given_values):
    config = config_lib.load("folder", "PHOTOS")
    with config.ignore_type():
        config.update(given_values)
    return by_images.resolve(config, num_images, device_count, earlier)


@pytest.mark.parametrize(
    ("images", "batch", "epochs", "steps"),
    [(200, 32, 480, 3001), (1000, 128, 384, 3001), (10_000, 256, 100, 3907), (100_000, 256, 100, 39_063)],
)
def test_the_number_of_images_chooses_and_says_so(images, batch, epochs, steps, caplog):
    caplog.set_level("INFO", "simclr_jax")
    config = resolved(images)
    assert (config.batch_size, config.epochs) == (batch, epochs)
    assert optim.total_steps(images, config.batch_size, config.epochs) == steps
    assert config.optimizer.warmup_epochs == 10
    rate = 0.075 * batch**0.5
    line = f"{images:,} images: batch {batch}, {epochs} epochs, {steps:,} steps, 10 epochs of warm-up, learning rate"
    assert f"{line} {rate:.3g}." in caplog.text


@LAWS
@given(images=st.integers(2, 10**7), devices=st.integers(1, 256))
def test_any_number_of_images_on_any_number_of_devices(images, devices):
    if images < devices:
        with pytest.raises(UserError, match="too few"):
            resolved(images, devices)
        return
    config = resolved(images, devices)
    assert config.batch_size % devices == 0
    assert 1 < config.batch_size <= images
    assert config.epochs <= 800
    optim.make_schedule(
        config.optimizer,
        batch_size=config.batch_size,
        num_examples=images,
        steps=optim.total_steps(images, config.batch_size, config.epochs),
    )
    checks.check_values(config, devices)


def test_what_is_given_is_kept():
    config = resolved(1000, batch_size=128, epochs=20.0)
    assert (config.batch_size, config.epochs, config.optimizer.warmup_epochs) == (128, 20, 2)
    plain = config_lib.pretrain()
    assert by_images.resolve(plain, 1000, 1) is plain


def test_a_run_that_continues_keeps_its_numbers():
    assert resolved(100_000, earlier=resolved(1000)).to_dict() == resolved(1000).to_dict()
