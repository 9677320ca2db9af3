"""Planning with the TPU compiler: a small network for slices that are not there."""

import json
import os
import subprocess
import sys

from helpers import REPOSITORY
import pytest

from simclr_jax import config as config_lib
from simclr_jax import errors
from simclr_jax.runtime import cli
from simclr_jax.tpu import chips as tpu_chips
from simclr_jax.tpu import compiler as tpu_compiler
from simclr_jax.tpu import isolation
from simclr_jax.tpu import planning

DIGITS = f"--config={REPOSITORY}/configs/digits.py"
TINY = (
    DIGITS,
    "--config.data.image_size=8",
    "--config.model.depth=10",
    "--config.model.width=0.125",
    "--config.batch_size=64",
)
KEYS = [
    *("topology", "chips", "batch_per_chip", "hbm_gib", "hbm_limit_gib", "fits", "flops"),
    *("step_ms", "collective_ms", "utilisation", "images_per_s", "hours", "collectives", "input"),
]


def run(*arguments):
    return cli.call("plan", *arguments)


@pytest.fixture(scope="module")
def libtpu():
    pytest.importorskip("libtpu", reason="the TPU compiler is not installed: pip install '.[tpu]'")


@pytest.mark.heavy
def test_a_small_network_on_two_slices(libtpu, capsys):
    one, two = run(*TINY, "--topology=v5e:2x2,v4:2x2x4", "--json")
    printed = capsys.readouterr().out.splitlines()
    assert [json.loads(line) for line in printed] == [one, two]
    for entry, chips in ((one, 4), (two, 16)):
        assert list(entry) == KEYS
        assert entry["fits"] is True
        assert (entry["chips"], entry["batch_per_chip"]) == (chips, 64 // chips)
        assert 0 < entry["hbm_gib"] < 1
        assert 0 < entry["utilisation"] < 1
        milliseconds = entry["step_ms"] + entry["collective_ms"]
        assert entry["images_per_s"] == pytest.approx(64 / milliseconds * 1e3)
        steps = 60 * 1437 // 64 + 1
        assert entry["hours"] == pytest.approx(steps * milliseconds / 3.6e6)
        assert entry["collectives"]["all-reduce"]["count"] > 0
    assert one["flops"] == pytest.approx(4 * two["flops"])
    # Every gradient is summed over the chips: parameters of ResNet-10 at an eighth of the width, 4 bytes each.
    assert one["collectives"]["all-reduce"]["bytes"] > 4 * 4.9e6 / 64


@pytest.mark.slow
def test_the_flops_are_those_of_the_network(libtpu):
    """ResNet-50 at 224 px takes 4.09 G multiply-adds an image (He et al. 2016: 3.8, without the stride in the 3x3
    convolution); a step three times that, two views, two operations each."""
    config = config_lib.pretrain()
    config.data.image_size, config.model.depth, config.batch_size = 224, 50, 8
    assert planning.step_flops(config, 1000, 0) / 8 == pytest.approx(2 * 3 * 2 * 4.09e9, rel=0.06)


@pytest.mark.slow
def test_what_is_computed_again_does_not_count_as_the_networks_operations():
    config = config_lib.pretrain()
    config.data.image_size, config.model.depth, config.model.width, config.batch_size = 32, 10, 0.125, 8
    whole = planning.step_flops(config, 1000, 0)
    config.microbatches, config.remat = 4, "block"
    assert planning.step_flops(config, 1000, 0) == whole


@pytest.mark.slow
def test_what_does_not_fit_says_what_would(libtpu, capsys):
    huge = ("--config.data.image_size=512", "--config.model.width=1", "--config.batch_size=1024")
    (entry,) = run(DIGITS, *huge, "--topology=v5e:1x1")
    assert entry["fits"] is False
    assert entry["hbm_gib"] > entry["hbm_limit_gib"] == 15.75
    assert entry["step_ms"] is None
    output = capsys.readouterr()
    assert "NO" in output.out
    assert f"{entry['hbm_gib'] - 15.75:.2f} GiB too much on each chip" in output.err
    assert "--config.compute_dtype=bfloat16" in output.err


def test_advice():
    config = config_lib.pretrain()
    entry = {"topology": "v5e:4x4", "chips": 16, "batch_per_chip": 256, "hbm_gib": 51.0, "hbm_limit_gib": 15.75}
    text = planning.advice(config, entry, 1.0)
    # (0.9 * 15.75 - 1) of 50 GiB of activations: 67 images, so 4096 need 62 chips, of which there are 64.
    assert "About 67 images fit on a chip: take 64 chips, or --config.batch_size=1072." in text
    assert "Or --config.microbatches=4 on the same chips" in text
    assert "bfloat16" in text
    assert "fsdp" not in text
    assert "--config.mesh.fsdp=8" in planning.advice(config, entry, 5.0)


def test_the_compilers_text_is_read():
    text = """
HloModule jit_step
%fused (x: f32[1]) -> f32[1] {
  %add = f32[1] add(%x, %y), backend_config={"estimated_cycles":"99"}
}
%bit (x: f32[4]) -> f32[64] {
  %all-gather.1 = f32[64]{0} all-gather(%x), channel_id=9, frontend_attributes={chain_id="0"}
}
%another_bit (x: f32[4], y: f32[8]) -> f32[64] {
  %all-gather.2 = f32[64]{0} all-gather(%x), channel_id=9, frontend_attributes={chain_id="0"}
  %work.1 = f32[8] add(%y, %y), backend_config={"estimated_cycles":"99"}
}
%ring.condition (p: (s32[], f32[10])) -> pred[] {
  %seven = s32[]{:T(128)} constant(7)
  %counter = s32[] get-tuple-element(%p), index=0
  ROOT %lt = pred[] compare(%counter, %seven), direction=LT
}
%ring.body (p: (s32[], f32[10])) -> (s32[], f32[10]) {
  %permute = (f32[10]{0}, f32[10]{0}, u32[]) collective-permute-start(%c)
  %work = f32[10]{0} fusion(%permute), calls=%fused, backend_config={"estimated_cycles":"10"}
}
ENTRY %main (a: f32[64]) -> f32[2] {
  %all-reduce.1 = (f32[64]{0}, bf16[3,4]{1,0}) all-reduce(%a, %b), backend_config={"estimated_cycles":"1000"}
  %all-gather-start = (f32[8,128]{1,0}, f32[128,128]{1,0}) all-gather-start(%z)
  %loop = (s32[], f32[10]) while(%start), condition=%ring.condition, body=%ring.body
  %async-collective-start = f32[64]{0} fusion(%s), calls=%bit
  %async-collective-fusion = f32[64]{0} fusion(%t), calls=%another_bit, backend_config={"estimated_cycles":"0"}
  ROOT %f = f32[2]{0} fusion(%d), calls=%fused, backend_config={"estimated_cycles":"234"}
}
"""
    assert tpu_compiler.estimated_cycles(text) == 1234 + 7 * 10
    assert tpu_compiler.collectives(text) == {
        "all-reduce": {"count": 1, "bytes": 64 * 4 + 12 * 2},
        "all-gather": {"count": 2, "bytes": 128 * 128 * 4 + 64 * 4},
        "collective-permute": {"count": 7, "bytes": 7 * 40},
    }


@pytest.mark.parametrize(
    ("topology", "links"),
    [
        ("v5e:1x1", 0),
        ("v5e:4x4", 2),
        ("v5e:8x16", 3),
        ("v5e:16x16", 4),
        ("v3:16x16", 2),
        ("v4:2x2x1", 2),
        ("v4:2x2x4", 3),
        ("v4:4x4x4", 6),
        ("v5p:4x4x8", 6),
    ],
)
def test_the_links_of_a_chip_in_a_corner(topology, links):
    _, chip, sizes = tpu_chips.parse(topology)
    assert tpu_chips.links(chip, sizes) == links


def test_a_sum_goes_over_the_wires_twice():
    chip = tpu_chips.CHIPS["v5e"]
    slice_ = tpu_compiler.Topology("v5e:16x16", chip, 256, 4, [])
    found = {"all-reduce": {"count": 3, "bytes": 90e6}, "all-gather": {"count": 1, "bytes": 180e6}}
    # 360 MB over four links of 45 GB/s.
    assert tpu_compiler.collective_seconds(found, slice_) == pytest.approx(2e-3)
    alone = tpu_compiler.Topology("v5e:1x1", chip, 1, 0, [])
    assert tpu_compiler.collective_seconds({}, alone) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "--topology is missing"),
        (("--topology=v9:4x4",), "unknown chip 'v9'"),
        (("--topology=v5e:4x4x4",), "2 dimensions, as in v5e:4x4"),
        (("--topology=v5e:axb",), "2 dimensions"),
    ],
)
def test_mistakes(arguments, message):
    with pytest.raises(errors.UserError, match=message):
        run(*TINY, *arguments)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--topology=v5e:3x5",), "the TPU compiler knows no such slice"),
        (("--topology=v5e:2x2", "--config.batch_size=66"), "v5e:2x2: config.batch_size is 66"),
        (("--topology=v5e:2x2", "--config.mesh.fsdp=3"), "config.mesh.fsdp is 3"),
        (("--topology=v5e:2x2", "--config.data.source=folder"), "--num_examples=N"),
    ],
)
def test_mistakes_of_config_and_slice(libtpu, arguments, message):
    with pytest.raises(errors.UserError, match=message):
        run(*TINY, *arguments)


def test_without_the_compiler_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(tpu_compiler.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(errors.UserError, match=r"pip install '\.\[tpu\]'"):
        run(*TINY, "--topology=v5e:2x2")


def test_data_that_is_not_here_needs_only_its_size():
    config = config_lib.pretrain()
    config.data.update(source="tfds", name="imagenet2012")
    assert planning.training_set(config, None, 0) == (1_281_167, 1000)
    assert planning.training_set(config, 1000, 10) == (1000, 10)
    config.data.update(source="folder", root="/nowhere")
    with pytest.raises(errors.UserError, match="--num_examples=N"):
        planning.training_set(config, None, 0)


@pytest.mark.slow
def test_a_crash_of_the_compiler_is_told_and_the_others_are_planned_for(monkeypatch, capsys, libtpu):
    with pytest.raises(errors.CompilerCrashed):
        isolation.isolated(os.abort)

    def some(function, config, name, *sizes):
        if name == "v5e:2x2":
            raise errors.CompilerCrashed("crashed")
        return dict.fromkeys(KEYS, None) | {"topology": name, "fits": True, "flops": 1.0}, None

    monkeypatch.setattr(isolation, "isolated", some)
    with pytest.raises(errors.CompilerCrashed, match="v5e:2x2"):
        run(*TINY, "--topology=v5e:2x2,v5e:2x4", "--json")
    output = capsys.readouterr()
    assert "v5e:2x2: the TPU compiler crashed" in output.err
    assert json.loads(output.out)["topology"] == "v5e:2x4"
    codes = []
    monkeypatch.setattr(cli.os, "_exit", codes.append)
    monkeypatch.setattr(cli.logging, "shutdown", lambda: None)  # it would close the streams that pytest captures
    cli.exit_at_once(lambda: run(*TINY, "--topology=v5e:2x2"))
    assert codes == [errors.EXIT_COMPILER_CRASHED], "not 1, the code of any Python exception"


@pytest.mark.slow
def test_a_stopped_command_leaves_no_compiler_behind():
    code = "import time; print('compiling', flush=True); time.sleep(300)"
    command = [sys.executable, "-c", f"from simclr_jax.tpu import isolation; isolation.isolated(exec, {code!r})"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "compiling\n"
        process.terminate()
        # The end of its output is when the last process that could write to it is gone.
        assert process.communicate(timeout=60) == ("", None)
