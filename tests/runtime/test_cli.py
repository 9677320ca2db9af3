"""The command line of every command: --help, mistakes, paths, exit codes."""

import os
import subprocess
import sys

from absl import flags
from helpers import REPOSITORY
import pytest

from simclr_jax import config
from simclr_jax import errors
from simclr_jax import report
from simclr_jax.errors import UserError
from simclr_jax.runtime import cli
from simclr_jax.runtime.flags import parse_profile_steps
from simclr_jax.runtime.tools import TOOLS

COMMANDS = (*config.KINDS, "preview", *TOOLS)
DIGITS = ("--config=digits", "--workdir=w")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """An empty folder that is not the clone."""
    monkeypatch.chdir(tmp_path)


def parse(command, *words):
    values = flags.FlagValues()
    cli.parse(command, [command, *words], values)
    return values


def started(*words, code=None, **variables):
    """`python WORDS` in another process, which can import the project from any folder."""
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)} | variables
    done = subprocess.run([sys.executable, *words], env=environment, capture_output=True, text=True, timeout=120)
    assert code is None or done.returncode == code, done.stderr
    return done


# --help.


@pytest.mark.slow
def test_help_of_every_command_and_launcher_imports_nothing_heavy():
    """Which is why it comes back in less than a second."""
    code = """
import contextlib, io, runpy, sys
for word in ("--help", "-h", "--helpfull"):
    for module in sys.stdin.read().split() if word == "--help" else ("simclr_jax.knn", "simclr_jax.plan"):
        sys.argv, printed = [module, word], io.StringIO()
        try:
            with contextlib.redirect_stdout(printed):
                runpy.run_module(module, run_name="__main__")
            raise AssertionError(f"{module} did not end")
        except SystemExit as ended:
            assert ended.code == 0, (module, ended.code)
        assert f"python -m {module} " in printed.getvalue(), module
        heavy = {"jax", "flax", "optax", "orbax", "tensorflow", "matplotlib"} & sys.modules.keys()
        assert not heavy, (module, heavy)
"""
    modules = [f"simclr_jax.{name}" for name in COMMANDS]
    modules += [f"launch.{name}" for name in ("local", "slurm", "gke", "tpu_vm", "sweep")]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        input="\n".join(modules),
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


@pytest.mark.parametrize("command", COMMANDS)
def test_help_lists_the_flags_and_the_fields(command):
    text = cli.help_of(command)
    assert f"python -m simclr_jax.{command} " in text
    assert "flagfile" not in text, "a flag of absl"
    kind = {"preview": "pretrain", "plan": "pretrain", "input_rate": "pretrain"}.get(command, command)
    fields = config.fields_of(kind) if kind in config.KINDS else {}
    for name, field in fields.items():
        (line,) = (line for line in text.splitlines() if line.startswith(f"  --config.{name} "))
        assert f" {field.type_name}, default: " in line
        if len(field.choices) > 1:
            assert f"one of {', '.join(map(str, field.choices))}" in line
        assert " ".join(field.doc.split()) in " ".join(text.split())
    assert ("--config" in text) == bool(fields)
    evaluates = kind in config.KINDS and config.KINDS[kind].evaluates
    assert ("\n  --pretrained\n" in text) == (evaluates or command in ("embed", "export", "verdict"))


def test_help_shows_defaults_as_they_are_typed():
    text = cli.help_of("pretrain")
    assert "  --config.batch_size  int or auto, default: 4096, at least 2" in text
    assert "  --config.augment.crop_area  tuple, default: 0.08,1, (low, high)" in text
    assert "  --hang_timeout  (default: 1800.0)" in text


@pytest.mark.slow
def test_help_may_be_piped_into_a_program_that_stops_reading():
    done = subprocess.run(
        f"{sys.executable} -m simclr_jax.pretrain --help | head -n 1",
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        shell=True,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout == "Contrastive pretraining.\n"
    assert done.stderr == ""


# Mistakes.


@pytest.mark.parametrize(
    ("words", "message"),
    [
        # The config file.
        (("--workdir=w",), "--config is missing, as in --config=.*digits.py"),
        (("--config", "nope.py", "--workdir=w"), "--config=nope.py: no such file. The configs in .* are cifar10, "),
        (("--config=nope.py", "--workdir=w"), "--config=nope.py: no such file"),
        (("--config=", "--workdir=w"), "--config has no value, as in --config=digits.py"),
        (("--config", "--workdir=w"), "--config has no value"),
        (("--workdir=w", "--config"), "--config has no value"),
        (("--config=syntax.py", "--workdir=w"), "--config=syntax.py: line 2: "),
        (("--config=raises.py", "--workdir=w"), "--config=raises.py: line 2: ZeroDivisionError: division by zero"),
        (("--config=empty.py", "--workdir=w"), "--config=empty.py: it has no function get_config"),
        (
            ("--config=number.py", "--workdir=w"),
            r"--config=number.py: get_config\(\) returns 3, but should return a config",
        ),
        (("--config=digits.py:epoch=3", "--workdir=w"), "no argument 'epoch' .did you mean 'epochs'..; it has epochs"),
        (("--config=digits.py:epochs=x", "--workdir=w"), "epochs='x' should be of type int"),
        (
            ("--config=knn", "--workdir=w"),
            "config.kind is 'knn': this config is for simclr_jax.knn, but simclr_jax.pretrain",
        ),
        # Fields of the config.
        (
            (*DIGITS, "--config.augment.crop_area=0.5"),
            r"crop_area is \[0.5\], but must be \(low, high\) .* as in 0.1,0.9",
        ),
        ((*DIGITS, "--config.batch_size=1"), "config.batch_size is 1, but must be at least 2"),
        ((*DIGITS, "--config.seed=99999999999999999999"), "config.seed is 9+, but must be from 0 to 2147483647"),
        ((*DIGITS, "--config.data.root=x"), "config.data.root is 'x', but config.data.source is digits"),
        ((*DIGITS, "--config.batch_size=0.5"), "config.batch_size is 0.5, but should be of type int or auto"),
        ((*DIGITS, "--config.epochs=ten"), "config.epochs is 'ten', but should be of type float or auto"),
        ((*DIGITS, "--config.model.depth=0.5"), "--config.model.depth=0.5: should be of type int"),
        ((*DIGITS, "--config.seed=-1"), "config.seed is -1, but must be from 0 to 2147483647"),
        ((*DIGITS, "--config.optimizer.nesterov=maybe"), "--config.optimizer.nesterov=maybe: should be of type bool"),
        ((*DIGITS, "--config.model.depth=51"), "config.model.depth is 51, but must be one of 10, 18, 34"),
        ((*DIGITS, "--config.loss.temprature=1"), "names a field that does not exist .did you mean 'loss.temperature'"),
        ((*DIGITS, "--config.losss.temperature=1"), "did you mean 'loss.temperature'"),
        ((*DIGITS, "--config.model.width"), "Missing value for flag --config.model.width"),
        # Flags.
        (("--config=digits",), "--workdir is missing: the folder for"),
        (("--config=digits", "--workdir="), "--workdir is missing"),
        (("--config=digits", "--workdir"), "--workdir has no value, as in --workdir=DIR"),
        (("--config=digits", "--workdir=a_file"), "--workdir=a_file: it is a file, but has to be a folder"),
        (("--config=digits", "--workdir=a_file/w"), "--workdir=a_file/w: a_file is a file, but has to be a folder"),
        ((*DIGITS, "--wrkdir=x"), "unknown flag --wrkdir .did you mean 'workdir'..; --help lists them"),
        ((*DIGITS, "--pretrained=x"), "unknown flag --pretrained"),
        ((*DIGITS, "stray"), "unknown argument 'stray': flags begin with --"),
        ((*DIGITS, "--hang_timeout=soon"), "--hang_timeout=soon: should be a non-negative number"),
        ((*DIGITS, "--hang_timeout=-1"), "--hang_timeout=-1: should be a non-negative number"),
        ((*DIGITS, "--hang_exit=perhaps"), "--hang_exit=perhaps: should be true or false"),
        ((*DIGITS, "--num_processes=two"), "--num_processes=two: should be an integer"),
        ((*DIGITS, "--profile_steps=3"), "--profile_steps=3: give the first and the last step"),
    ],
)
def test_mistakes_of_a_run_are_one_line(words, message, tmp_path):
    (tmp_path / "a_file").write_text("")
    (tmp_path / "syntax.py").write_text("'''Doc.'''\nx = (\n")
    (tmp_path / "raises.py").write_text("def get_config(arg=None):\n    return 1 / 0\n")
    (tmp_path / "empty.py").write_text("x = 1\n")
    (tmp_path / "number.py").write_text("def get_config(arg=None):\n    return 3\n")
    with pytest.raises(UserError, match=message) as refused:
        parse("pretrain", *words)
    assert "\n" not in str(refused.value)


def test_fields_may_come_before_the_config():
    for words in (("--config=digits",), ("--config", "digits.py"), ("--config=cifar10", "--config=digits")):
        config = parse("pretrain", "--config.model.depth=34", *words, "--workdir=w").config
        assert (config.model.depth, config.data.source) == (34, "digits")


@pytest.mark.parametrize(
    ("command", "words", "message"),
    [
        ("knn", ("--workdir=w",), "--pretrained is missing: the workdir of a pretraining run"),
        ("knn", ("--workdir=w", "--pretrained=nowhere"), "--pretrained='nowhere' does not exist"),
        ("finetune", ("--workdir=w", "--config.init=random", "--config.label_seeds=0,-1"), "whole numbers from 0 up"),
        ("finetune", ("--workdir=w", "--config.init=random", "--config.label_seeds=a"), "whole numbers from 0 up"),
        ("plan", ("--config=digits",), "--topology is missing, as in --topology=v5e:4x4"),
        ("plan", ("--config=digits", "--topologie=v5e:4x4"), "unknown flag --topologie .did you mean 'topology'"),
        ("plan", ("--config=digits", "--topology=v5e:4x4", "--batch_per_chip=0"), "should be a positive integer"),
        ("finetune", ("--config.loss.temperature=0.2", "--workdir=w"), "has no block .loss.; --help lists its fields"),
        ("report", (), "--workdirs is missing"),
        ("report", ("--workdir=x",), "unknown flag --workdir .did you mean 'workdirs'"),
        ("report", ("x",), "unknown argument 'x'"),
        ("quickstart", ("a", "b"), "unknown argument 'b': give one workdir"),
        ("quickstart", ("--workdri=a",), "unknown flag --workdri .did you mean 'workdir'"),
        ("quickstart", ("a_file",), "--workdir=a_file: it is a file"),
        ("preview", ("--config=digits",), "--workdir is missing"),
    ],
)
def test_mistakes_of_other_commands_are_one_line(command, words, message, tmp_path):
    (tmp_path / "a_file").write_text("")
    with pytest.raises(UserError, match=message) as refused:
        parse(command, *words)
    assert "\n" not in str(refused.value)


@pytest.mark.slow
def test_a_mistake_ends_the_process_before_jax_is_imported():
    """Exit code 2, one line on standard error, no traceback."""
    words = ("-X", "importtime", "-m", "simclr_jax.pretrain", *DIGITS, "--config.batch_size=1")
    lines = started(*words, code=errors.EXIT_USER_ERROR).stderr.splitlines()
    imported = {line.rpartition("|")[2].strip() for line in lines if line.startswith("import time:")}
    assert "simclr_jax.config" in imported
    assert not {"jax", "flax", "tensorflow", "orbax"} & imported
    assert [line for line in lines if not line.startswith("import time:")] == [
        "error: config.batch_size is 1, but must be at least 2, because a single image has no negatives."
    ]


@pytest.mark.parametrize("text", ["5", "a:b", "4:3", "0:2", "1:"])
def test_profile_steps_that_are_none(text):
    with pytest.raises(UserError, match="--profile_steps=100:104"):
        parse_profile_steps(text)
    assert parse_profile_steps("3:4") == (3, 4)


# Paths.


@pytest.mark.parametrize("form", ["--{}={}", "--{} {}"])
def test_the_home_folder_is_expanded(form, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "run").mkdir()

    def flag(name, value):
        return form.format(name, value).split(" ")

    words = [*flag("workdir", "~/w"), *flag("pretrained", "~/run"), *flag("config.data.root", "~/photos")]
    values = parse("knn", *words)
    assert values["workdir"].value == f"{tmp_path}/w"
    assert values["pretrained"].value == f"{tmp_path}/run"
    assert values["config"].value.data.root == f"{tmp_path}/photos"
    values = parse("report", *flag("workdirs", "~/run"), *flag("output", "~/a.html"))
    assert (values["workdirs"].value, values["output"].value) == ([f"{tmp_path}/run"], f"{tmp_path}/a.html")
    assert parse("quickstart", "~/q")["workdir"].value == f"{tmp_path}/q"
    assert parse("pretrain", "--config=digits", "--workdir=gs://b/~/w")["workdir"].value == "gs://b/~/w"


@pytest.mark.parametrize("name", ["digits", "digits.py", "configs/digits.py", str(config.CONFIGS / "digits.py")])
def test_a_shipped_config_is_known_by_its_name_in_every_folder(name):
    assert parse("pretrain", f"--config={name}:epochs=7", "--workdir=w")["config"].value.epochs == 7
    assert parse("pretrain", "--config", name, "--workdir", "w")["config"].value.data.source == "digits"


def test_of_two_configs_the_last_counts():
    words = ("--config=digits:epochs=3", "--workdir=w", "--config=cifar10", "--config.epochs=5")
    config = parse("pretrain", *words)["config"].value
    assert (config.data.name, config.epochs) == ("cifar10", 5)


def test_a_file_of_this_folder_goes_before_a_shipped_config(tmp_path):
    text = (
        "from simclr_jax import config\n\n\ndef get_config(arg=None):\n    return config.load('digits', 'epochs=3')\n"
    )
    (tmp_path / "digits.py").write_text(text)
    assert parse("pretrain", "--config=digits.py", "--workdir=w")["config"].value.epochs == 3


def test_paths_with_commas_and_equals_signs(tmp_path):
    root = "a=b,c=d, e"
    assert (
        parse("pretrain", "--config=folder", "--workdir=w", f"--config.data.root={root}")["config"].value.data.root
        == root
    )
    assert (
        parse("pretrain", "--config=folder", "--workdir=a=b,c", f"--config.data.root={root}")["workdir"].value
        == "a=b,c"
    )
    values = parse("pretrain", f"--config=folder:root='{root}',size=64", "--workdir=w")
    assert (values["config"].value.data.root, values["config"].value.data.image_size) == (root, 64)


def test_workdirs_of_a_report_may_have_commas(tmp_path):
    for name in ("temperature=0.1,seed=1", "temperature=0.1,seed=2", "plain"):
        (tmp_path / name).mkdir()
    words = ("--workdirs=temperature=0.1,seed=1,plain", "--workdirs=temperature=0.1,seed=2")
    folders = [folder for value in parse("report", *words)["workdirs"].value for folder in report.split_folders(value)]
    assert folders == ["temperature=0.1,seed=1", "plain", "temperature=0.1,seed=2"]


def test_the_home_folder_is_expanded_in_every_folder_of_a_report(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    words = parse("report", "--workdirs=~/a,~/b")["workdirs"].value
    assert [folder for word in words for folder in report.split_folders(word)] == [f"{tmp_path}/a", f"{tmp_path}/b"]


def test_an_evaluation_without_a_config_has_that_of_its_kind():
    values = parse("linear_probe", "--workdir=w", "--config.init=random")
    assert values["config"].value.kind == "linear_probe"
