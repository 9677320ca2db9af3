"""The sweep file: names of runs, its commands, mistakes in it, the sweeps that come with this, choosing runs."""

import pathlib
import re

from helpers import LAWS
from hypothesis import HealthCheck
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
import pytest
from sweeps import FIELD
from sweeps import RUN
from sweeps import TEMPERATURES
from sweeps import load
from sweeps import yielding

from launch import sweep_file
from launch import sweep_runs
from simclr_jax.errors import UserError

pytestmark = pytest.mark.usefixtures("at_repository")

# --- Names and commands ---


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        ({"config.loss.normalize": True, "config.loss.temperature": 0.05}, "normalize=true,temperature=0.05"),
        ({"config.optimizer.name": "sgd", "config.data.name": "cifar10"}, "optimizer.name=sgd,data.name=cifar10"),
        ({"config.epochs": 100.0, "config.label_seeds": (0, 1)}, "epochs=100,label_seeds=0_1"),
        ({"config.optimizer.weight_decay": 1e-6}, "weight_decay=1e-06"),
    ],
)
def test_names_are_readable(overrides, name):
    assert sweep_file.name_of(overrides) == name


def test_names_are_unique_and_fit_a_file_system():
    names = [sweep_file.name_of({"config.data.root": root}) for root in ("a/b", "a-b", "a b", "x" * 300, "x" * 299)]
    assert names[1] == "root=a-b"
    assert len(set(names)) == 5
    assert all(re.fullmatch(r"root=[-\w.~]{,110}", name) for name in names)


# Of three fields. Text may have commas and what a file system refuses; without "=" it cannot look like another field.
VALUES = st.tuples(
    st.one_of(
        st.text(st.characters(codec="utf-8", exclude_characters="=")), st.sampled_from(["a,b", "a b", "a/b", "a-b"])
    ),
    st.integers(),
    st.floats(allow_nan=False),
)


def overrides_of(values):
    return dict(zip(("config.data.root", "config.seed", "config.loss.temperature"), values, strict=True))


@LAWS
@given(st.lists(VALUES, min_size=2, max_size=6, unique=True))
def test_any_names_are_distinct_and_choose_their_run(several):
    runs = [
        sweep_runs.SweepRun(sweep_file.name_of(overrides_of(values)), overrides_of(values), (), pathlib.Path())
        for values in several
    ]
    assert len({run.name for run in runs}) == len(runs)
    for run in runs:
        assert re.fullmatch(r"[\w.+=,~-]{1,127}", run.name, flags=re.ASCII)
        assert sweep_file.select(runs, [run.name]) == [run]


@settings(LAWS, max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    root=st.text(st.characters(codec="utf-8", categories=["L", "N", "P", "S", "Zs"])),
    label_seeds=st.lists(st.integers(0, 99), min_size=1, max_size=3).map(tuple),
    rate=st.floats(1e-6, 1e3),
    nesterov=st.booleans(),
)
def test_any_values_arrive_in_the_config(write, root, label_seeds, rate, nesterov):
    item = {
        "run": "finetune --config=configs/imagenet_finetune.py --config.init=random",
        "config.data.root": root,
        "config.label_seeds": label_seeds,
        "config.optimizer.learning_rate": rate,
        "config.optimizer.nesterov": nesterov,
    }
    (run,) = load(write, yielding(**item))
    config = run.stages[0].config
    assert (config.data.root, config.label_seeds) == (root, label_seeds)
    assert (config.optimizer.learning_rate, config.optimizer.nesterov) == (rate, nesterov)


def test_a_dict_becomes_commands(write):
    first, second = load(write)
    pretrain, knn = first.stages
    assert pretrain.command("python") == [
        *("python", "-m", "simclr_jax.pretrain", "--config=configs/digits.py", "--config.loss.temperature=0.1"),
        *("--compilation_cache=W/compilation_cache", "--workdir=W/temperature=0.1/pretrain"),
    ]
    assert knn.command("python")[3:] == [
        *("--config.neighbours=5", "--pretrained=W/temperature=0.1/pretrain"),
        *("--compilation_cache=W/compilation_cache", "--workdir=W/temperature=0.1/knn"),
    ]
    assert second.name == "temperature=0.5"
    (run,) = load(write, yielding(run=f"{RUN} --compilation_cache=/fast", **FIELD))
    assert [flag for flag in run.stages[0].flags if "cache" in flag] == ["--compilation_cache=/fast"]
    # Values arrive as what they are: what the flags are parsed to is what the sweep said.
    item = {
        "run": "finetune --config.init=random",
        "config.label_seeds": (3,),
        "config.augment.crop_area": (0.2, 1.0),
        "config.optimizer.nesterov": False,
        "config.data.root": "a folder, quoted 'so'",
    }
    (run,) = load(write, yielding(**item))
    config = run.stages[0].config
    assert (config.label_seeds, config.augment.crop_area) == ((3,), (0.2, 1.0))
    assert (config.optimizer.nesterov, config.data.root) == (False, "a folder, quoted 'so'")


def test_numpy_values_and_arguments(write):
    text = """
import numpy as np
def sweep(arg="2"):
    for rate in np.geomspace(0.1, 1.0, int(arg)):
        yield {"run": "pretrain --config=configs/digits.py", "config.optimizer.learning_rate": rate}
"""
    assert [run.name for run in load(write, text)] == ["learning_rate=0.1", "learning_rate=1"]
    assert len(sweep_file.load(write(text) + ":5", "W").runs) == 5


# --- Mistakes ---


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1", "no function sweep"),
        ("def sweep():\n    return []", "yields no runs"),
        ("def sweep():\n    yield 1 / 0", "some.py, line 2: ZeroDivisionError"),
        ("def sweep(:", "some.py, line .: SyntaxError"),
        (yielding(**FIELD), "run 0: 'run' is missing"),
        (yielding(run=RUN), "run 0: no field sets this run apart"),
        (yielding(run="pretrian", **FIELD), "did you mean 'pretrain'"),
        (yielding(run="pretrain", **FIELD), "'pretrain' has no --config"),
        (yielding(run=RUN + " --workdir=x", **FIELD), "has a --workdir"),
        (yielding(run=RUN, temperature=0.1), "'temperature' is none of"),
        (yielding(run=RUN, **{"config.data.root": None}), "config.data.root is None"),
        (yielding(run=RUN, then={"pretrain": "knn"}, **FIELD), "cannot name a folder"),
        (yielding(run=RUN, then={"a/b": "knn"}, **FIELD), "cannot name a folder"),
        (yielding(run=RUN, then={"again": RUN}, **FIELD), "evaluations only"),
        (yielding(run="knn", then={"more": "knn"}, **FIELD), "'then' evaluates a pretrained encoder, but 'run' is knn"),
        (yielding(run=RUN + " '", **FIELD), "No closing quotation"),
        (TEMPERATURES.replace("(0.1, 0.5)", "(1, 1.0)"), "run 1: an earlier run has the same overrides, temperature=1"),
    ],
)
def test_mistakes_in_the_file_are_told(write, text, message):
    with pytest.raises(UserError, match=message):
        load(write, text)


# --- The sweeps that come with this ---


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("digits_temperature", 6),
        ("digits_temperature:seeds=3,epochs=2", 18),
        ("batch_size:epochs=200", 12),
        ("batch_size:recipe=configs/cifar10_small.py,epochs=10,batches=64 128,scalings=sqrt,seeds=2", 4),
        ("semi_supervised:configs,recipe=configs/digits_finetune.py,draws=4", 16),
        ("semi_supervised:configs,fractions=0.01,draws=2,scratch=false,rate=0.1,batch=64,steps=300", 2),
        ("transformations:configs", 2),
        ("composition", 28),
        (
            "composition:recipe=configs/cifar10_small.py:size=20,probe=lbfgs,epochs=2,folder=configs,"
            "ops=crop color blur,seeds=2",
            12,
        ),
        ("losses", 5),
        ("temperature:recipe=configs/cifar10_small.py,seeds=2", 12),
        ("heads", 9),
        ("transfer:configs", 10),
        ("transfer:configs,datasets=dtd voc2007,protocol=finetune,init=random", 2),
        ("epochs:lengths=1 2,batches=64 128,recipe=configs/cifar10_small.py", 4),
        ("folder_sizes:lists=configs,labelled=configs", 15),
        ("network_size:depths=18 34,recipe=configs/cifar10_small.py", 6),
        ("colour_strength:supervised_epochs=5,supervised_rate=2", 5),
    ],
)
def test_the_sweeps_that_come_with_this_are_right(name, count):
    file, colon, arg = name.partition(":")
    loaded = sweep_file.load(f"configs/sweeps/{file}.py{colon}{arg}", "W")
    description, runs = loaded.description, loaded.runs
    sweep_runs.check(runs, sweep_runs.Stage.check)
    assert len(runs) == count
    assert f"python -m launch.sweep --sweep=configs/sweeps/{file}.py" in description.replace(
        "--workdir=runs/digits_semi ", ""
    )


def test_every_sweep_file_is_tested_here():
    names = {path.stem for path in pathlib.Path("configs/sweeps").glob("*.py")} - {"common"}
    (mark,) = (mark for mark in test_the_sweeps_that_come_with_this_are_right.pytestmark if mark.name == "parametrize")
    assert names == {name.partition(":")[0] for name, _ in mark.args[1]}


def test_the_scaling_in_the_config_file_and_in_the_overrides_agree():
    for run in sweep_file.load("configs/sweeps/batch_size.py", "W").runs:
        optimizer = run.stages[0].config.optimizer
        assert optimizer.learning_rate == {"linear": 0.3, "sqrt": 0.075}[optimizer.scaling]


# --- Choosing runs ---


def test_only(write):
    text = """
def sweep():
    for seed in range(3):
        for temperature in (0.1, 0.15):
            yield {"run": "pretrain --config=x", "config.loss.temperature": temperature, "config.seed": seed}
    yield {"run": "pretrain --config=x", "config.loss.temperature": 0.1}
"""
    runs = load(write, text)

    def names(*patterns):
        return [run.name for run in sweep_file.select(runs, list(patterns))]

    assert len(names()) == 7
    assert names("temperature=0.1") == ["temperature=0.1"]  # a name, and so no other of its kind
    assert names("seed=1") == ["temperature=0.1,seed=1", "temperature=0.15,seed=1"]
    assert names("seed=1,temperature=0.15", "temperature=0.1?,seed=2") == [
        "temperature=0.15,seed=1",
        "temperature=0.15,seed=2",
    ]
    with pytest.raises(UserError, match="--only=seed=7 is no run of this sweep. Its runs: temperature=0.1,seed=0 "):
        names("seed=7")
