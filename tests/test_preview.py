"""The preview command: it writes all pictures, and they show what their titles say."""

import numpy as np
from PIL import Image
import pytest

from configs import digits
from simclr_jax import preview
from simclr_jax.augment import alone
from simclr_jax.augment import family
from simclr_jax.runtime import cli

pytestmark = pytest.mark.slow


def test_every_picture_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(preview, "IMAGES", 2)
    written = cli.call("preview", "--config=digits", f"--workdir={tmp_path}")
    ops = set(alone.columns(digits.get_config().augment))
    assert ops == {"crop", *(op.name for op in family.OPS), *family.JITTER_OPS}
    assert set(written) == {"views", "histograms"} | {f"op_{op}" for op in ops}
    for path in written.values():
        pixels = np.asarray(Image.open(path).convert("RGB"))
        assert min(pixels.shape[:2]) > 100
        assert pixels.std() > 5, "not empty"


def test_a_sheet_shows_the_image_and_the_results_of_one_operation():
    looker = preview.Looker(digits.get_config())
    made = alone.columns(digits.get_config().augment)
    titles, images = looker.sheet("flip", made["flip"])
    assert titles == ["image", ""]
    np.testing.assert_array_equal(images[:, 1], images[:, 0, :, ::-1])
    titles, rotated = looker.sheet("rotate", made["rotate"])
    assert rotated.shape[:2] == (preview.IMAGES, 5)
    np.testing.assert_array_equal(rotated[:, 0], images[:, 0])
    for row in rotated:
        for view in row[1:]:
            assert any(np.array_equal(view, np.rot90(row[0], turns)) for turns in range(4))
    _, jittered = looker.sheet("brightness", made["brightness"])
    changes = np.abs(jittered[:, 1:].astype(int) - jittered[:, :1]).mean(axis=(0, 2, 3, 4))
    assert np.all(np.diff(changes) > 0), "more strength changes more"
