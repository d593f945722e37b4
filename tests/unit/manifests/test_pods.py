"""Every pod of ours is `restricted`, read-only, bounded and probed."""

import re

import pytest

from tests.unit.manifests.overlays import containers, pod

RESTRICTED_VOLUMES = {
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "persistentVolumeClaim",
    "projected",
    "secret",
}


@pytest.fixture
def workloads(objects):
    return [o for o in objects.values() if pod(o)]


@pytest.fixture
def pods(workloads):
    return [pod(workload)["spec"] for workload in workloads]


@pytest.fixture
def every_container(workloads):
    return [c for workload in workloads for c in containers(workload)]


def violations(spec: dict) -> list[str]:
    """What the `restricted` pod security standard has against a pod, by its own headings."""
    found = [f"host namespaces: {name}" for name in ("hostNetwork", "hostPID", "hostIPC") if spec.get(name)]
    for volume in spec.get("volumes", []):
        found += [f"volume type: {kind}" for kind in volume.keys() - {"name"} - RESTRICTED_VOLUMES]
    of_pod = spec.get("securityContext", {})
    for container in spec.get("initContainers", []) + spec["containers"]:
        own = container.get("securityContext", {})
        effective = of_pod | own
        capabilities = own.get("capabilities", {})
        found += [
            f"{container['name']}: {what}"
            for what, wrong in {
                "privileged": own.get("privileged"),
                "privilege escalation": own.get("allowPrivilegeEscalation") is not False,
                "running as non-root": effective.get("runAsNonRoot") is not True,
                "root user": effective.get("runAsUser") == 0,
                "seccomp": effective.get("seccompProfile", {}).get("type") not in ("RuntimeDefault", "Localhost"),
                "capabilities dropped": "ALL" not in capabilities.get("drop", []),
                "capabilities added": set(capabilities.get("add", [])) - {"NET_BIND_SERVICE"},
                "proc mount": own.get("procMount", "Default") != "Default",
                "host ports": any(port.get("hostPort") for port in container.get("ports", [])),
            }.items()
            if wrong
        ]
    return found + (["sysctls"] if of_pod.get("sysctls") else [])


def test_the_namespace_enforces_restricted(objects):
    labels = objects["Namespace", None, "dwi-stroke"]["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"


def test_every_pod_is_restricted(pods):
    assert pods
    assert [violations(spec) for spec in pods] == [[]] * len(pods)


def test_the_checker_finds_what_the_standard_forbids():
    bare = {"hostNetwork": True, "volumes": [{"name": "v", "hostPath": {}}], "containers": [{"name": "c"}]}
    assert violations(bare) == [
        "host namespaces: hostNetwork",
        "volume type: hostPath",
        "c: privilege escalation",
        "c: running as non-root",
        "c: seccomp",
        "c: capabilities dropped",
    ]


def test_every_user_is_a_number_that_is_not_root(pods):
    assert all(spec["securityContext"]["runAsUser"] > 0 and spec["securityContext"]["runAsGroup"] > 0 for spec in pods)


def test_every_root_file_system_is_read_only_and_tmp_is_not(every_container):
    for container in every_container:
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        assert "/tmp" in [mount["mountPath"] for mount in container["volumeMounts"]]


def test_every_scratch_volume_is_bounded(pods):
    scratch = [v["emptyDir"] for spec in pods for v in spec["volumes"] if "emptyDir" in v]
    assert scratch and all("sizeLimit" in volume for volume in scratch)


def test_no_pod_gets_a_token_or_the_addresses_of_services(pods):
    """MLFLOW_PORT=tcp://... of a Service named mlflow is taken by mlflow for its own port."""
    assert all(spec["automountServiceAccountToken"] is False for spec in pods)
    assert all(spec["enableServiceLinks"] is False for spec in pods)


def test_every_pod_has_an_account_of_its_own_in_the_overlay(objects, workloads):
    accounts = [pod(w)["spec"]["serviceAccountName"] for w in workloads]
    assert len(set(accounts)) == len(accounts)
    for account in accounts:
        assert objects["ServiceAccount", "dwi-stroke", account]["automountServiceAccountToken"] is False


def test_every_container_asks_for_cpu_and_memory_and_is_limited(every_container):
    for container in every_container:
        requests, limits = container["resources"]["requests"], container["resources"]["limits"]
        for what, number in {"cpu": _cores, "memory": _bytes}.items():
            assert 0 < number(requests[what]) <= number(limits[what])


def test_what_serves_is_probed(workloads):
    for workload in workloads:
        if workload["kind"] != "Job":
            for container in pod(workload)["spec"]["containers"]:
                assert {"startupProbe", "readinessProbe", "livenessProbe"} <= container.keys()


def test_every_selector_finds_its_pods_and_every_service_and_budget_a_workload(objects, workloads):
    labels = [pod(w)["metadata"]["labels"] for w in workloads]
    for workload in workloads:
        if workload["kind"] != "Job":
            assert workload["spec"]["selector"]["matchLabels"].items() <= pod(workload)["metadata"]["labels"].items()
    for (kind, namespace, _), o in objects.items():
        if namespace == "dwi-stroke" and kind in ("Service", "PodDisruptionBudget"):
            selector = o["spec"]["selector"].get("matchLabels", o["spec"]["selector"])
            assert any(selector.items() <= found.items() for found in labels)


def test_what_a_pod_refers_to_is_in_the_overlay_or_made_by_the_script(objects, pods, every_container, secrets):
    for ref in _references(pods, every_container):
        kind, name, key = ref
        there = objects["ConfigMap", "dwi-stroke", name]["data"] if kind == "ConfigMap" else secrets[name]
        assert key is None or key in there, ref


def test_our_images_are_tagged_and_others_pinned_by_digest(every_container):
    for container in every_container:
        image = container["image"]
        if "dwi-stroke/" in image:
            assert re.search(r"dwi-stroke/(mlflow|components|trainer):[\w.-]+$", image) and not image.endswith(
                ":latest"
            )
        else:
            assert re.search(r":[\w.-]+@sha256:[0-9a-f]{64}$", image)
        assert container["imagePullPolicy"] == "IfNotPresent"


def test_no_value_of_a_secret_stands_in_a_command_line(every_container):
    for container in every_container:
        line = " ".join(container.get("command", []) + container.get("args", []))
        for variable in container.get("env", []):
            if "secretKeyRef" in variable.get("valueFrom", {}):
                assert f"$({variable['name']})" not in line


def test_the_bucket_job_ends_and_goes_away(objects):
    spec = objects["Job", "dwi-stroke", "create-bucket"]["spec"]
    assert spec["backoffLimit"] > 0 and spec["activeDeadlineSeconds"] > 0 and spec["ttlSecondsAfterFinished"] > 0
    assert pod(objects["Job", "dwi-stroke", "create-bucket"])["spec"]["restartPolicy"] == "Never"


def _references(pods, every_container):
    for spec in pods:
        for volume in spec["volumes"]:
            if "configMap" in volume:
                yield "ConfigMap", volume["configMap"]["name"], None
            if "secret" in volume:
                for item in volume["secret"]["items"]:
                    yield "Secret", volume["secret"]["secretName"], item["key"]
    for container in every_container:
        for source in container.get("envFrom", []):
            for field, kind in {"configMapRef": "ConfigMap", "secretRef": "Secret"}.items():
                if field in source:
                    yield kind, source[field]["name"], None
        for variable in container.get("env", []):
            for field, kind in {"configMapKeyRef": "ConfigMap", "secretKeyRef": "Secret"}.items():
                if field in variable.get("valueFrom", {}):
                    yield kind, variable["valueFrom"][field]["name"], variable["valueFrom"][field]["key"]


def _cores(quantity: str) -> float:
    return float(quantity[:-1]) / 1000 if str(quantity).endswith("m") else float(quantity)


def _bytes(quantity: str) -> int:
    return int(quantity[:-2]) * {"Mi": 2**20, "Gi": 2**30}[quantity[-2:]]
