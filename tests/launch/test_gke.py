"""The JobSet manifest: against the published schemas, and what is in it."""

import jsonschema
from kubernetes.client import models
import pytest
import yaml

from launch import gke
from simclr_jax import errors

COMMAND = ["python", "-m", "simclr_jax.pretrain", "--config=configs/imagenet.py", "--workdir=gs://bucket/run"]

STRING, INTEGER, BOOLEAN = {"type": "string"}, {"type": "integer"}, {"type": "boolean"}


def a_list(items):
    return {"type": "array", "items": items}


def an_object(required=(), **properties):
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}


# The fields that jobset.x-k8s.io/v1alpha2 adds to Kubernetes' own (custom resource definition of JobSet 0.8). A child
# job's spec is checked with the Kubernetes client's model.
JOBSET = an_object(
    ["apiVersion", "kind", "metadata", "spec"],
    apiVersion={"const": "jobset.x-k8s.io/v1alpha2"},
    kind={"const": "JobSet"},
    metadata={"type": "object"},
    spec=an_object(
        coordinator=an_object(["replicatedJob"], jobIndex=INTEGER, podIndex=INTEGER, replicatedJob=STRING),
        failurePolicy=an_object(
            maxRestarts=INTEGER,
            restartStrategy={"enum": ["Recreate", "BlockingRecreate"]},
            rules=a_list(
                an_object(
                    ["action", "name"],
                    action={"enum": ["FailJobSet", "RestartJobSet", "RestartJobSetAndIgnoreMaxRestarts"]},
                    name={"type": "string", "pattern": "^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$"},
                    onJobFailureReasons=a_list(
                        {
                            "enum": [
                                "BackoffLimitExceeded",
                                "DeadlineExceeded",
                                "FailedIndexes",
                                "MaxFailedIndexesExceeded",
                                "PodFailurePolicy",
                            ]
                        }
                    ),
                    targetReplicatedJobs=a_list(STRING),
                )
            ),
        ),
        managedBy=STRING,
        network=an_object(enableDNSHostnames=BOOLEAN, publishNotReadyAddresses=BOOLEAN, subdomain=STRING),
        replicatedJobs=a_list(
            an_object(
                ["name", "template"],
                dependsOn={"type": "array"},
                groupName=STRING,
                name=STRING,
                replicas=INTEGER,
                template=an_object(metadata={"type": "object"}, spec={"type": "object"}),
            )
        ),
        startupPolicy={"type": "object"},
        successPolicy={"type": "object"},
        suspend=BOOLEAN,
        ttlSecondsAfterFinished=INTEGER,
    ),
)


def check_job(spec):
    """Refuses what Kubernetes' own model of a Job does not know, at any depth, and values of a wrong type."""
    models.V1JobSpec.model_validate(spec, strict=True)  # the model forbids unknown fields


def manifest_of(capsys, *arguments):
    flags = ["submit", "--name=simclr", "--image=example/simclr", *arguments, "--dry_run", "--", *COMMAND]
    assert gke.run(["gke", *flags]) == 0
    printed, _, command = capsys.readouterr().out.partition("\n$ ")
    assert command.strip() == "kubectl apply --filename=-"
    return yaml.safe_load(printed)


@pytest.mark.parametrize(
    "arguments",
    [
        ("--topology=v5e:4x4", "--spot", "--env=A=1", "--service_account=runner"),
        ("--topology=v4:2x2x4", "--slices=4", "--max_restarts=7"),
    ],
)
def test_the_manifest_is_a_jobset(capsys, arguments):
    manifest = manifest_of(capsys, *arguments)
    jsonschema.validate(manifest, JOBSET)
    for replicated in manifest["spec"]["replicatedJobs"]:
        check_job(replicated["template"]["spec"])
    broken = manifest | {"spec": manifest["spec"] | {"maxRestarts": 3}}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(broken, JOBSET)
    job = manifest["spec"]["replicatedJobs"][0]["template"]["spec"]
    with pytest.raises(ValueError, match="parallelizm"):
        check_job(job | {"parallelizm": 3})


@pytest.mark.parametrize(
    ("topology", "slices", "hosts", "chips", "label"),
    [
        ("v5e:1x1", 1, 1, 1, "tpu-v5-lite-podslice"),
        ("v5e:2x2", 1, 1, 4, "tpu-v5-lite-podslice"),
        ("v5e:4x4", 1, 4, 4, "tpu-v5-lite-podslice"),
        ("v5e:16x16", 4, 64, 4, "tpu-v5-lite-podslice"),
        ("v4:2x2x4", 1, 4, 4, "tpu-v4-podslice"),
        ("v5p:4x4x8", 2, 32, 4, "tpu-v5p-slice"),
        ("v6e:8x8", 1, 16, 4, "tpu-v6e-slice"),
    ],
)
def test_hosts_and_chips_of_a_slice(capsys, topology, slices, hosts, chips, label):
    manifest = manifest_of(capsys, f"--topology={topology}", f"--slices={slices}")
    (replicated,) = manifest["spec"]["replicatedJobs"]
    job = replicated["template"]["spec"]
    pod = job["template"]["spec"]
    assert (replicated["replicas"], job["parallelism"], job["completions"]) == (slices, hosts, hosts)
    assert pod["containers"][0]["resources"]["limits"] == {"google.com/tpu": str(chips)}
    assert pod["nodeSelector"]["cloud.google.com/gke-tpu-accelerator"] == label
    assert pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"] == topology.split(":")[1]
    assert pod["containers"][0]["command"] == COMMAND


def test_exit_codes_decide_what_is_started_again(capsys):
    """Mistakes fail the job by its pod failure policy, and that reason fails the set; any other one restarts it."""
    spec = manifest_of(capsys, "--topology=v5e:4x4")["spec"]
    job = spec["replicatedJobs"][0]["template"]["spec"]
    (rule,) = job["podFailurePolicy"]["rules"]
    assert (rule["action"], rule["onExitCodes"]["values"]) == (
        "FailJob",
        [errors.EXIT_USER_ERROR, errors.EXIT_NON_FINITE, errors.EXIT_STORAGE],
    )
    assert rule["onExitCodes"]["containerName"] == job["template"]["spec"]["containers"][0]["name"]
    (final,) = spec["failurePolicy"]["rules"]
    assert (final["action"], final["onJobFailureReasons"]) == ("FailJobSet", ["PodFailurePolicy"])
    assert job["template"]["spec"]["restartPolicy"] == "Never", "which podFailurePolicy needs"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--topology=v9:4x4",), "unknown chip"),
        (("--topology=v4:4x4",), "3 dimensions"),
        (("--topology=v5e:3x3",), "no whole number of hosts"),
        (("--topology=v5e:4x4", "--name=Big_Job"), "small letters"),
        ((), "--topology is missing"),
        (("--topology=v5e:4x4", "--env=A"), "NAME=VALUE"),
    ],
)
def test_mistakes(arguments, message):
    with pytest.raises(errors.UserError, match=message):
        gke.run(["gke", "submit", "--name=simclr", "--image=i", *arguments, "--dry_run", "--", *COMMAND])


@pytest.mark.parametrize("verb", ["status", "logs", "delete"])
def test_a_dry_run_prints_the_commands(capsys, verb):
    assert gke.run(["gke", verb, "--name=simclr", "--namespace=lab", "--dry_run"]) == 0
    assert all(line.startswith("$ kubectl --namespace=lab ") for line in capsys.readouterr().out.splitlines())


def test_the_manifest_reaches_kubectl(tmp_path, monkeypatch):
    program = tmp_path / "kubectl"
    program.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/arguments\ncat > {tmp_path}/manifest\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    gke.run(["gke", "submit", "--name=simclr", "--image=i", "--topology=v5e:4x4", "--", *COMMAND])
    assert (tmp_path / "arguments").read_text() == "apply --filename=-\n"
    assert yaml.safe_load((tmp_path / "manifest").read_text())["kind"] == "JobSet"
