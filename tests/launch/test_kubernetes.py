"""The files for Kubernetes: of the schema of each version that has what they use; consistent; no privileges."""

from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from tests.launch.test_outcome import outcome

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "launch" / "k8s").glob("*.yaml"))
VERSIONS = ("1.31", "1.34", "1.37")
JOBS = ("train.yaml", "shard.yaml")


def documents(name: str) -> dict[str, dict[str, Any]]:
    """The objects of a file, by kind."""
    text = (ROOT / "launch" / "k8s" / name).read_text()
    return {document["kind"]: document for document in yaml.safe_load_all(text)}


def pod_of(name: str) -> dict[str, Any]:
    return documents(name)["Job"]["spec"]["template"]["spec"]


def container_of(name: str) -> dict[str, Any]:
    (container,) = pod_of(name)["containers"]
    return container


def option(arguments: list[str], name: str) -> str:
    (value,) = (item.partition("=")[2] for item in arguments if item.startswith(f"--{name}="))
    return value


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_it_is_of_the_schema(path, version):
    for document in yaml.safe_load_all(path.read_text()):
        kubernetes_validate.validate(document, version, strict=True)


def test_the_schema_refuses_a_field_that_is_misspelt():
    job = documents("train.yaml")["Job"]
    job["spec"]["completion_mode"] = job["spec"].pop("completionMode")
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(job, VERSIONS[-1], strict=True)


def test_the_pods_are_the_machines_of_the_launch():
    found = documents("train.yaml")
    service, job = found["Service"], found["Job"]
    spec, arguments = job["spec"], container_of("train.yaml")["args"]
    machines = int(option(arguments, "num_machines"))
    assert spec["completionMode"] == "Indexed"
    assert spec["completions"] == spec["parallelism"] == machines
    gpus = int(container_of("train.yaml")["resources"]["limits"]["nvidia.com/gpu"])
    assert int(option(arguments, "num_processes")) == machines * gpus
    assert option(arguments, "config_file") == "launch/multi_node.yaml"
    # A pod of an Indexed Job is called JOB-INDEX, and found below its subdomain, a headless Service that selects it.
    name = job["metadata"]["name"]
    assert option(arguments, "main_process_ip") == f"{name}-0.{service['metadata']['name']}"
    assert pod_of("train.yaml")["subdomain"] == service["metadata"]["name"]
    assert service["spec"]["clusterIP"] == "None" and service["spec"]["publishNotReadyAddresses"]
    assert [port["port"] for port in service["spec"]["ports"]] == [int(option(arguments, "main_process_port"))]
    selected = {"batch.kubernetes.io/job-name": name}  # a label that the Job gives its pods
    assert service["spec"]["selector"] == selected
    policy = found["NetworkPolicy"]["spec"]
    assert policy["podSelector"]["matchLabels"] == selected
    assert [source["podSelector"]["matchLabels"] for rule in policy["ingress"] for source in rule["from"]] == [selected]


def test_the_shares_are_the_pods():
    spec = documents("shard.yaml")["Job"]["spec"]
    assert spec["completionMode"] == "Indexed"
    assert f'--part "$JOB_COMPLETION_INDEX/{spec["completions"]}"' in container_of("shard.yaml")["command"][2]
    assert 1 <= spec["parallelism"] <= spec["completions"]


def test_an_exit_code_decides_what_follows():
    policy = documents("train.yaml")["Job"]["spec"]["podFailurePolicy"]["rules"]
    codes = [rule for rule in policy if "onExitCodes" in rule]
    assert {code: rule["action"] for rule in codes for code in rule["onExitCodes"]["values"]} == {
        outcome.MEND: "FailJob",
        outcome.PREEMPTED: "Ignore",
        outcome.FURTHER: "Ignore",
    }
    names = {rule["onExitCodes"]["containerName"] for rule in codes}
    assert names == {container_of("train.yaml")["name"]}


@pytest.mark.parametrize("name", JOBS)
def test_a_pod_that_is_evicted_is_no_failure_and_is_replaced_when_it_is_gone(name):
    spec = documents(name)["Job"]["spec"]
    ignored = [rule for rule in spec["podFailurePolicy"]["rules"] if "onPodConditions" in rule]
    assert [(rule["action"], rule["onPodConditions"][0]["type"]) for rule in ignored] == [
        ("Ignore", "DisruptionTarget")
    ]
    assert spec["podReplacementPolicy"] == "Failed"
    assert pod_of(name)["restartPolicy"] == "Never", "a podFailurePolicy wants it"
    if name == "train.yaml":  # an incident costs a failure of each pod of a run
        assert spec["backoffLimit"] >= 10 * spec["completions"]
    else:
        assert "backoffLimit" not in spec and spec["backoffLimitPerIndex"] >= 5
    assert "onPodConditions" in spec["podFailurePolicy"]["rules"][0], "the first rule that fits decides"


def test_the_status_says_of_which_job_it_is():
    names = {item["name"]: item for item in container_of("train.yaml")["env"]}
    label = names["JOB_UID"]["valueFrom"]["fieldRef"]["fieldPath"]
    assert label == "metadata.labels['batch.kubernetes.io/controller-uid']"
    assert "$(JOB_UID)" in names["T2F_LAUNCH"]["value"]
    order = list(names)
    assert order.index("JOB_UID") < order.index("T2F_LAUNCH"), "only what stands before it can be named"


@pytest.mark.parametrize("name", JOBS)
def test_a_pod_has_no_privileges_and_no_secret_stands_in_the_file(name):
    pod, container = pod_of(name), container_of(name)
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"] == 10001
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert not {"hostNetwork", "hostPID", "hostIPC", "serviceAccountName"} & set(pod)
    assert not any("hostPath" in volume for volume in pod["volumes"])
    assert not any(word in item["name"] for item in container["env"] for word in ("KEY", "TOKEN", "SECRET", "PASSWORD"))
    assert container["envFrom"] == [{"secretRef": {"name": "t2f-secrets", "optional": True}}]
    assert ":latest" not in container["image"] and ":" in container["image"]


@pytest.mark.parametrize("name", JOBS)
def test_what_is_mounted_is_there(name):
    pod, container = pod_of(name), container_of(name)
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    mounts = {mount["mountPath"]: volumes[mount["name"]] for mount in container["volumeMounts"]}
    assert len(mounts) == len(volumes)
    claim = documents("storage.yaml")["PersistentVolumeClaim"]
    assert mounts["/data"]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    assert "emptyDir" in mounts["/tmp"]
    values = {item["name"]: item.get("value") for item in container["env"]}
    assert values["HOME"] in mounts, "the root cannot be written"
    if name == "train.yaml":
        assert mounts["/dev/shm"]["emptyDir"]["medium"] == "Memory"
        assert pod["terminationGracePeriodSeconds"] > 60  # ranks save in it
    paths = [value for item in container["args"] for value in [item.rpartition("=")[2]] if value.startswith("/")]
    assert paths and all(path.startswith("/data/") for path in paths)


@pytest.mark.parametrize("name", JOBS)
def test_the_files_that_a_pod_names_are_in_the_image(name):
    copied = {
        source
        for line in (ROOT / "launch" / "Dockerfile").read_text().splitlines()
        if line.startswith("COPY ")
        for source in line.split()[1:-1]
    }
    container = container_of(name)
    named = [item.rpartition("=")[2] for item in (*container["command"], *container["args"])]
    files = [item for item in named if item.partition("/")[0] in ("launch", "configs", "shards") and "/" in item]
    assert files
    for file in files:
        assert (ROOT / file).is_file(), file
        assert any(file.startswith(f"{source}/") for source in copied), file
