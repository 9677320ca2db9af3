"""Runs jobs on Cloud TPU VMs, on one slice of any size. Each verb is a few `gcloud` commands, which --dry_run prints.

    python -m launch.tpu_vm create  --name=simclr --zone=us-west4-a --type=v5litepod-16 --spot --queued
    python -m launch.tpu_vm setup   --name=simclr --zone=us-west4-a
    python -m launch.tpu_vm run     --name=simclr --zone=us-west4-a -- \
        python -m simclr_jax.pretrain --config=configs/imagenet.py --workdir=gs://BUCKET/run1
    python -m launch.tpu_vm status  --name=simclr --zone=us-west4-a
    python -m launch.tpu_vm logs    --name=simclr --zone=us-west4-a --follow
    python -m launch.tpu_vm stop    --name=simclr --zone=us-west4-a       # saves a checkpoint and ends
    python -m launch.tpu_vm delete  --name=simclr --zone=us-west4-a --queued

Or all of it in one command, for spot capacity:

    python -m launch.tpu_vm babysit --name=simclr --zone=us-west4-a --type=v5litepod-16 --spot --queued -- COMMAND

babysit creates the slice if it does not exist, sets it up, starts the command on all workers and waits. After a preemption
it deletes the slice, creates it again and continues from the newest checkpoint. When the job has ended, it deletes a slice
that it created, unless --keep is given. If babysit itself is started again, it waits for the job that is running.

The workers connect without further settings. The workdir has to be in a bucket, or on a file system that all workers mount.
The exit code of run and babysit is that of the job: see launch/README.md.
"""

import sys
import time

from absl import flags

from launch import common
from launch.tpu_slice import LOST
from launch.tpu_slice import TpuSlice
from simclr_jax import errors
from simclr_jax.errors import UserError

VERBS = ("create", "setup", "run", "status", "logs", "stop", "delete", "babysit")

# The images have Python 3.10, which is too old; uv installs a newer one.
SETUP = (
    "python3 -m pip install --quiet --user --upgrade uv"
    " && ~/.local/bin/uv venv --quiet --clear --python 3.12 .venv"
    " && ~/.local/bin/uv pip install --quiet --python .venv --constraint constraints.txt --editable '.[tpu]'"
)


def define_flags(values: flags.FlagValues) -> None:
    """Defines the flags of this launcher."""
    text = "Name of the TPU VM (and of its queued resource)."
    flags.DEFINE_string("name", None, text, flag_values=values)
    flags.DEFINE_string("zone", None, "Zone, as in us-west4-a.", flag_values=values)
    flags.DEFINE_string("project", None, "Google Cloud project. Default: that of gcloud.", flag_values=values)
    text = "Accelerator type: v5litepod-16, v4-32 (cores), v5p-32 (cores), v6e-16, ..."
    flags.DEFINE_string("type", None, text, flag_values=values)
    flags.DEFINE_string("runtime_version", None, "Image. Default: the one for the type.", flag_values=values)
    flags.DEFINE_bool("spot", False, "Spot capacity: cheap, but may be preempted.", flag_values=values)
    flags.DEFINE_bool("queued", False, "Use a queued resource, which waits for capacity.", flag_values=values)
    flags.DEFINE_multi_string("create_flag", [], "Another flag for the create command of gcloud.", flag_values=values)
    text = "Command that installs the code on each worker, run in the folder of the code."
    flags.DEFINE_string("setup_command", SETUP, text, flag_values=values)
    flags.DEFINE_string("job", "job", "Name of the job, for its log on the workers.", flag_values=values)
    flags.DEFINE_multi_string("env", [], "Environment variable for the command, NAME=VALUE.", flag_values=values)
    flags.DEFINE_bool("detach", False, "run: do not wait for the end of the job.", flag_values=values)
    flags.DEFINE_integer("worker", 0, "logs: number of the worker.", lower_bound=0, flag_values=values)
    flags.DEFINE_integer("lines", 50, "logs: number of lines from the end.", lower_bound=1, flag_values=values)
    flags.DEFINE_bool("follow", False, "logs: continue until Ctrl-C.", flag_values=values)
    text = "babysit: number of failures, other than preemptions, after which it gives up."
    flags.DEFINE_integer("max_failures", 5, text, lower_bound=0, flag_values=values)
    text = "babysit: keep the slice that it created when the job has ended."
    flags.DEFINE_bool("keep", False, text, flag_values=values)
    flags.DEFINE_float(
        "poll_seconds", 30.0, "Seconds between two checks of the state.", lower_bound=0.01, flag_values=values
    )
    flags.DEFINE_bool("dry_run", False, "Only print the commands.", flag_values=values)


def babysit(tpu: TpuSlice, values: flags.FlagValues) -> int:
    """Runs the job on a slice to its end, through preemptions and failures. Returns its exit code."""
    name, created, failures, set_up = values["name"].value, False, 0, False
    if values["dry_run"].value:
        for step in (tpu.state, tpu.create, tpu.setup, tpu.start, tpu.codes):
            step()
        print("# after the loss of the slice, before it is created again, and at the end of the job:")
        tpu.delete()
        return 0
    while True:
        code = None
        state = tpu.state()
        try:
            if state in LOST:
                if state != "NOT_FOUND":
                    print(f"{name}: {state}; deleted and created again.", flush=True)
                    tpu.delete()
                tpu.create()
                created, set_up = True, False
            elif state != "READY":
                print(f"{name}: {state}", flush=True)
                time.sleep(values["poll_seconds"].value)
                continue
            if None in (tpu.codes() or []):
                print(f"{name} runs the job.", flush=True)
            else:
                if not set_up:
                    tpu.setup()
                set_up = True
                tpu.start()
            code = tpu.wait()
            if code is None:
                continue
            if code in (0, *errors.FINAL):
                break
            if code == errors.EXIT_PREEMPTED:
                print(f"{name}: asked to stop, has saved; started again.", flush=True)
                continue
            reason = f"exit code {code}"
        except UserError as error:  # gcloud failed, perhaps because of a preemption in the middle
            reason = str(error)
        failures += 1
        if failures > values["max_failures"].value:
            print(f"{name}: {reason}; given up after {failures} failures.", file=sys.stderr, flush=True)
            code = 1 if code is None else code
            break
        print(f"{name}: {reason}; tried again (failures: {failures}).", flush=True)
        time.sleep(values["poll_seconds"].value)
    if created and not values["keep"].value:
        tpu.delete()
    return code


def run(argv: list[str]) -> int:
    """Carries out a command line; returns the exit code.

    Raises:
      UserError: for mistakes, and if gcloud fails.
    """
    verb, values, command = common.parse(argv, define_flags, __doc__, VERBS)
    common.require(values, name="simclr", zone="us-west4-a")
    if verb in ("run", "babysit"):
        common.check_command(command)
    elif command:
        raise UserError(f"{command[0]!r} after -- is only for run and babysit.")
    common.check_workdir(command)
    common.check_settings(values["env"].value)
    tpu = TpuSlice(values, command)
    if verb == "babysit":
        return babysit(tpu, values)
    if verb == "status":
        state, codes = tpu.state(), tpu.codes()
        if not values["dry_run"].value:
            shown = "no job" if codes is None else ["running" if code is None else code for code in codes]
            print(f"{values['name'].value}: {state}; exit codes of the workers: {shown}")
        return 0
    if verb == "run":
        if not values["dry_run"].value and None in (tpu.codes() or []):
            raise UserError("a job is running there: stop it first, or wait for it with babysit.")
        tpu.start()
        if values["detach"].value or values["dry_run"].value:
            return 0
        code = tpu.wait()
        return 1 if code is None else code
    {"create": tpu.create, "setup": tpu.setup, "logs": tpu.logs, "stop": tpu.stop, "delete": tpu.delete}[verb]()
    return 0


if __name__ == "__main__":
    common.main(run)
