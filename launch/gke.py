"""Runs jobs on Google Kubernetes Engine, on one or several TPU slices, as a JobSet.

    python -m launch.gke submit --name=simclr --image=REGISTRY/simclr_jax --topology=v5e:4x4 --spot -- \
        python -m simclr_jax.pretrain --config=configs/imagenet.py --workdir=gs://BUCKET/run1
    python -m launch.gke submit ... --slices=4 -- COMMAND      # four slices as one job, over the data-centre network
    python -m launch.gke submit ... --dry_run -- COMMAND       # prints the manifest and the command
    python -m launch.gke status --name=simclr
    python -m launch.gke logs   --name=simclr --follow
    python -m launch.gke delete --name=simclr

The cluster needs the JobSet controller and a node pool of that topology. Build the image with launch/Dockerfile. When
a pod fails or loses its node, JobSet recreates all pods, which continue from the newest checkpoint. After a mistake
(exit code 2), a non-finite loss (3) or with a disk that is full or away (74) it gives up. The pods connect without
further settings.
"""

import math
import re

from absl import flags
import yaml

from launch import common
from simclr_jax import errors
from simclr_jax.errors import UserError
from simclr_jax.tpu import chips as tpu_chips

VERBS = ("submit", "status", "logs", "delete")

# cloud.google.com/kubernetes-engine/docs/concepts/tpus: the node labels, and the chips of a host in a larger slice.
ACCELERATORS = {
    "v4": "tpu-v4-podslice",
    "v5e": "tpu-v5-lite-podslice",
    "v5p": "tpu-v5p-slice",
    "v6e": "tpu-v6e-slice",
}
CHIPS_PER_HOST = 4


def define_flags(values: flags.FlagValues) -> None:
    """Defines the flags of this launcher."""
    text = "Name of the job: small letters, digits, hyphens."
    flags.DEFINE_string("name", None, text, flag_values=values)
    flags.DEFINE_string("namespace", None, "Kubernetes namespace. Default: that of kubectl.", flag_values=values)
    flags.DEFINE_string("image", None, "Container image, built with launch/Dockerfile.", flag_values=values)
    flags.DEFINE_string("topology", None, "Topology of a slice, as in v5e:4x4.", flag_values=values)
    flags.DEFINE_integer("slices", 1, "Number of slices for the job.", lower_bound=1, flag_values=values)
    flags.DEFINE_bool("spot", False, "Use spot nodes.", flag_values=values)
    flags.DEFINE_multi_string("env", [], "Environment variable for the command, NAME=VALUE.", flag_values=values)
    flags.DEFINE_string("service_account", None, "Kubernetes service account, for the bucket.", flag_values=values)
    text = "Number of failures, including preemptions, after which JobSet gives up."
    flags.DEFINE_integer("max_restarts", 100, text, lower_bound=0, flag_values=values)
    text = "Seconds that the pods have for saving when they are asked to stop. (Spot nodes have 25 at most.)"
    flags.DEFINE_integer("grace_seconds", 120, text, lower_bound=0, flag_values=values)
    flags.DEFINE_bool("follow", False, "logs: continue until Ctrl-C.", flag_values=values)
    flags.DEFINE_bool("dry_run", False, "Only print the manifest and the commands.", flag_values=values)


def hosts_of(topology: str) -> tuple[str, str, int, int]:
    """What GKE has to know about a topology such as "v5e:4x4".

    Returns:
      The node label, the shape, the number of hosts of a slice, and the number of chips of a host.

    Raises:
      UserError: for an unknown topology.
    """
    version, _, sizes = tpu_chips.parse(topology)
    if version not in ACCELERATORS:
        raise UserError(f"--topology={topology}: GKE has no slices of {version}, only of {', '.join(ACCELERATORS)}.")
    chips = math.prod(sizes)
    if chips > CHIPS_PER_HOST and chips % CHIPS_PER_HOST:
        raise UserError(
            f"--topology={topology}: {chips} chips are no whole number of hosts with {CHIPS_PER_HOST} chips."
        )
    hosts = max(1, chips // CHIPS_PER_HOST)
    return ACCELERATORS[version], topology.partition(":")[2], hosts, min(chips, CHIPS_PER_HOST)


def manifest(values: flags.FlagValues, command: list[str]) -> dict:
    """The JobSet (jobset.x-k8s.io/v1alpha2) for a command line."""
    label, shape, hosts, chips = hosts_of(values.topology)
    container = {
        "name": "worker",
        "image": values.image,
        "command": command,
        "env": [
            {"name": name, "value": value} for name, _, value in (setting.partition("=") for setting in values.env)
        ],
        "ports": [{"containerPort": 8471}, {"containerPort": 8080}],
        "resources": {"requests": {"google.com/tpu": str(chips)}, "limits": {"google.com/tpu": str(chips)}},
    }
    selector = {"cloud.google.com/gke-tpu-accelerator": label, "cloud.google.com/gke-tpu-topology": shape}
    pod = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": values.grace_seconds,
        "nodeSelector": selector,
        "containers": [container],
    }
    if values.spot:
        selector["cloud.google.com/gke-spot"] = "true"
        pod["tolerations"] = [
            {"key": "cloud.google.com/gke-spot", "operator": "Equal", "value": "true", "effect": "NoSchedule"}
        ]
    if values.service_account:
        pod["serviceAccountName"] = values.service_account
    job = {
        "parallelism": hosts,
        "completions": hosts,
        "completionMode": "Indexed",
        "backoffLimit": 0,  # a single pod cannot rejoin the job, so JobSet restarts all pods
        "podFailurePolicy": {
            "rules": [
                {
                    "action": "FailJob",
                    "onExitCodes": {"containerName": "worker", "operator": "In", "values": list(errors.FINAL)},
                }
            ]
        },
        "template": {"spec": pod},
    }
    metadata = {
        "name": values.name,
        # Each slice is a node pool, and each child job has a whole one.
        "annotations": {"alpha.jobset.sigs.k8s.io/exclusive-topology": "cloud.google.com/gke-nodepool"},
    }
    if values.namespace:
        metadata["namespace"] = values.namespace
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": metadata,
        "spec": {
            "failurePolicy": {
                "maxRestarts": values.max_restarts,
                "rules": [
                    # A job that podFailurePolicy lets fail is final; every other failure restarts the set.
                    {"name": "final", "action": "FailJobSet", "onJobFailureReasons": ["PodFailurePolicy"]}
                ],
            },
            "replicatedJobs": [{"name": "slice", "replicas": values.slices, "template": {"spec": job}}],
        },
    }


def run(argv: list[str]) -> int:
    """Carries out a command line; returns the exit code.

    Raises:
      UserError: for mistakes, and where kubectl is missing or fails.
    """
    verb, values, command = common.parse(argv, define_flags, __doc__, VERBS)
    common.require(values, name="simclr")
    name = values.name
    # Pods are called NAME-slice-0-12-abcde, which has to be a host name.
    if not re.fullmatch(r"[a-z]([a-z0-9-]{0,38}[a-z0-9])?", name):
        raise UserError(f"--name={name}: at most 40 small letters, digits and hyphens, beginning with a letter.")
    shell = common.Shell(values.dry_run)
    kubectl = ["kubectl", *([f"--namespace={values.namespace}"] if values.namespace else [])]
    if verb == "submit":
        common.require(values, image="REGISTRY/simclr_jax", topology="v5e:4x4")
        common.check_command(command)
        common.check_workdir(command)
        common.check_settings(values.env)
        text = yaml.safe_dump(manifest(values, command), sort_keys=False, width=1000)
        if values.dry_run:
            print(text)
        return shell.run([*kubectl, "apply", "--filename=-"], text=text)
    if command:
        raise UserError(f"{command[0]!r} after -- is only for submit.")
    pods = f"--selector=jobset.sigs.k8s.io/jobset-name={name}"
    if verb == "status":
        shell.run([*kubectl, "get", "jobset", name])
        return shell.run([*kubectl, "get", "pods", pods, "--output=wide"])
    if verb == "logs":
        first = f"{pods},jobset.sigs.k8s.io/job-index=0,batch.kubernetes.io/job-completion-index=0"
        return shell.run([*kubectl, "logs", first, "--tail=100", *(["--follow"] if values.follow else [])])
    return shell.run([*kubectl, "delete", "jobset", name])


if __name__ == "__main__":
    common.main(run)
