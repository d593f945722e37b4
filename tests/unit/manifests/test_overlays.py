"""What the overlays hold: the names that the pipeline and make rely on, and nothing that reaches over the cluster."""

import os
import re
import shutil
import subprocess

import pytest
import yaml

from tests.unit.manifests.overlays import MANIFESTS, OVERLAYS, RENDERER, rendered

SETTINGS = {
    "S3_ENDPOINT_URL", "AWS_DEFAULT_REGION", "S3_BUCKET", "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "KFP_HOST",
}  # fmt: skip


def names(objects, kind):
    return {(namespace, name) for k, namespace, name in objects if k == kind}


def test_kubectl_renders_the_objects_that_the_files_name(both):
    files, render = both
    assert files.keys() == render.keys()


def test_the_settings_are_in_both_namespaces_and_the_same(objects):
    ours, steps = (objects["ConfigMap", namespace, "dwi-stroke-settings"] for namespace in ("dwi-stroke", "kubeflow"))
    assert ours["data"].keys() == SETTINGS
    assert ours["data"] == steps["data"]


def test_mlflow_is_where_the_settings_say(objects):
    settings = objects["ConfigMap", "kubeflow", "dwi-stroke-settings"]["data"]
    (port,) = objects["Service", "dwi-stroke", "mlflow"]["spec"]["ports"]
    assert settings["MLFLOW_TRACKING_URI"] == f"http://mlflow.dwi-stroke.svc.cluster.local:{port['port']}"
    assert settings["MLFLOW_EXPERIMENT_NAME"] == "dwi-stroke-segmentation"


def test_nothing_reaches_over_the_cluster(objects):
    kinds = {kind for kind, _, _ in objects}
    assert not kinds & {"ClusterRole", "ClusterRoleBinding", "CustomResourceDefinition", "PersistentVolume"}
    assert {(kind, name) for kind, namespace, name in objects if namespace is None} == {("Namespace", "dwi-stroke")}
    assert {namespace for _, namespace, _ in objects if namespace} == {"dwi-stroke", "kubeflow"}


def test_no_role_grants_everything_of_anything(objects):
    for role in [o for (kind, _, _), o in objects.items() if kind == "Role"]:
        for rule in role["rules"]:
            assert "*" not in rule["apiGroups"] + rule["resources"] + rule["verbs"]
            assert "secrets" not in rule["resources"]


def test_kind_has_a_database_of_its_own_and_the_cluster_an_external_one(kind, gpu_cluster):
    assert ("dwi-stroke", "postgres") in names(kind, "StatefulSet")
    assert not names(gpu_cluster, "StatefulSet") and ("dwi-stroke", "postgres") not in names(gpu_cluster, "Service")


def test_kind_keeps_objects_in_kfps_seaweedfs(kind):
    settings = kind["ConfigMap", "kubeflow", "dwi-stroke-settings"]["data"]
    assert settings["S3_ENDPOINT_URL"] == "http://seaweedfs.kubeflow.svc.cluster.local:8333"


def test_the_node_ports_are_those_that_the_kind_cluster_maps_to_this_machine_alone(kind, cluster):
    (node,) = cluster["nodes"]
    mapped = {m["containerPort"]: (m["hostPort"], m["listenAddress"]) for m in node["extraPortMappings"]}
    assert mapped == {30880: (8880, "127.0.0.1"), 30500: (5500, "127.0.0.1")}
    services = {key[1:]: o["spec"] for key, o in kind.items() if key[0] == "Service" and o["spec"].get("type")}
    assert {key: spec["ports"][0]["nodePort"] for key, spec in services.items()} == {
        ("dwi-stroke", "mlflow-node-port"): 30500,
        ("kubeflow", "ml-pipeline-ui-node-port"): 30880,
    }
    assert services["kubeflow", "ml-pipeline-ui-node-port"]["selector"] == {"app": "ml-pipeline-ui"}


def test_the_kind_node_is_pinned_by_digest(cluster):
    (node,) = cluster["nodes"]
    assert "kindest/node:v1.33." in node["image"] and "@sha256:" in node["image"]
    assert cluster["name"] == "dwi-stroke"


@pytest.mark.skipif(not RENDERER, reason="needs kubectl or kustomize on the PATH")
class TestRendered:
    """What patches of single fields change."""

    def test_kind_is_small(self):
        kind = rendered("kind")
        (claim,) = kind["StatefulSet", "dwi-stroke", "postgres"]["spec"]["volumeClaimTemplates"]
        assert claim["spec"]["resources"]["requests"]["storage"] == "2Gi"
        assert kind["Deployment", "dwi-stroke", "mlflow"]["spec"]["replicas"] == 1

    def test_the_clusters_mlflow_has_two_replicas_of_which_one_stays_up(self):
        gpu_cluster = rendered("gpu-cluster")
        assert gpu_cluster["Deployment", "dwi-stroke", "mlflow"]["spec"]["replicas"] == 2
        budget = gpu_cluster["PodDisruptionBudget", "dwi-stroke", "mlflow"]["spec"]
        assert budget["minAvailable"] == 1 and "maxUnavailable" not in budget

    def test_one_replica_lets_its_node_be_drained(self):
        assert rendered("kind")["PodDisruptionBudget", "dwi-stroke", "mlflow"]["spec"]["maxUnavailable"] == 1

    @pytest.mark.parametrize("overlay", OVERLAYS)
    def test_everything_carries_our_label(self, overlay):
        for key, o in rendered(overlay).items():
            assert o["metadata"]["labels"]["app.kubernetes.io/part-of"] == "dwi-stroke", key

    def test_a_kustomization_on_top_sets_the_tags_and_the_registry(self, tmp_path):
        """What make does with the tag of the images: manifests/ itself never changes."""
        images = [
            {"name": "dwi-stroke/mlflow", "newTag": "0123abcd"},
            {"name": "dwi-stroke/components", "newTag": "4567ef00"},
        ]
        top = {"resources": [os.path.relpath(OVERLAYS["kind"], tmp_path)], "images": images}
        (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(top))
        command = [RENDERER, "build"] if RENDERER.endswith("kustomize") else [RENDERER, "kustomize"]
        text = subprocess.check_output([*command, tmp_path], text=True)
        assert text.count("image: dwi-stroke/mlflow:0123abcd") == 2
        assert text.count("image: dwi-stroke/components:4567ef00") == 1
        assert ":dev" not in text

    @pytest.mark.parametrize("version", ["1.33", "1.36"])
    @pytest.mark.parametrize("overlay", OVERLAYS)
    def test_the_schemas_of_kubernetes_hold(self, overlay, version):
        validate = pytest.importorskip("kubernetes_validate").validate
        for o in rendered(overlay).values():
            validate(o, version, strict=True)

    @pytest.mark.parametrize("overlay", OVERLAYS)
    def test_checkov_finds_nothing_that_is_not_justified_in_place(self, overlay, tmp_path):
        if not shutil.which("checkov"):
            pytest.skip("needs checkov on the PATH")
        path = tmp_path / "rendered.yaml"
        path.write_text(yaml.safe_dump_all(rendered(overlay).values()))
        command = ["checkov", "-f", path, "--framework", "kubernetes", "--compact", "--quiet", "--skip-download"]
        result = subprocess.run(command, capture_output=True, text=True)
        assert result.returncode == 0, result.stdout


class TestMlflowsCommand:
    """The server's command line against the MLflow that is installed here, whose version the image has too."""

    @pytest.fixture
    def container(self, objects):
        return objects["Deployment", "dwi-stroke", "mlflow"]["spec"]["template"]["spec"]["containers"][0]

    def test_mlflow_knows_the_options_and_the_variables(self, container):
        from mlflow.cli import server

        options = {option for parameter in server.params for option in parameter.opts}
        variables = {parameter.envvar for parameter in server.params}
        command, subcommand, *arguments = container["command"]
        assert (command, subcommand) == ("mlflow", "server")
        assert {argument.split("=")[0] for argument in arguments} <= options
        assert "MLFLOW_BACKEND_STORE_URI" in variables

    def test_every_variable_in_the_command_is_set(self, container):
        used = set(re.findall(r"\$\((\w+)\)", " ".join(container["command"])))
        assert used == {"S3_BUCKET", "ALLOWED_HOSTS"} and used <= {variable["name"] for variable in container["env"]}

    def test_it_answers_under_its_names_in_the_cluster_and_through_a_forwarded_port(self, container):
        from mlflow.server.security_utils import is_allowed_host_header

        hosts = next(v["value"] for v in container["env"] if v["name"] == "ALLOWED_HOSTS").split(",")
        for host in (
            "mlflow.dwi-stroke.svc.cluster.local:5000",
            "mlflow.dwi-stroke:5000",
            "localhost:5500",
            "127.0.0.1:1",
        ):
            assert is_allowed_host_header(hosts, host), host
        for host in (
            "evil.example",
            "mlflow.dwi-stroke.evil.example:5000",
            "localhost.evil.example:80",
            "10.244.0.9:5000",
        ):
            assert not is_allowed_host_header(hosts, host), host

    def test_the_probes_ask_for_a_page_that_answers_under_any_name(self, container):
        from mlflow.server.security_utils import is_health_endpoint

        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            assert is_health_endpoint(container[probe]["httpGet"]["path"])

    def test_its_files_pass_through_the_scratch_volume(self, container):
        assert {"name": "HOME", "value": "/tmp"} in container["env"]


def test_no_file_uses_kustomizes_old_fields():
    for path in MANIFESTS.rglob("kustomization.yaml"):
        assert not yaml.safe_load(path.read_text()).keys() & {
            "bases",
            "patchesStrategicMerge",
            "patchesJson6902",
            "vars",
        }


NOT_RENDERED = {"base/secrets.example.yaml", "overlays/gpu-cluster/training-runtime.yaml"}
"""An example, and what an overlay names once Kubeflow Trainer is installed; kind/ holds patches of parts of others."""


def test_every_file_is_named_by_the_kustomization_beside_it():
    for folder in (path.parent for path in MANIFESTS.rglob("kustomization.yaml")):
        plan = yaml.safe_load((folder / "kustomization.yaml").read_text())
        named = {*plan.get("resources", []), *(patch.get("path") for patch in plan.get("patches", []))}
        files = {path.name for path in folder.glob("*.yaml")} - {"kustomization.yaml"}
        unnamed = {str((folder / name).relative_to(MANIFESTS)) for name in files - named}
        assert unnamed <= NOT_RENDERED, "such a file is never applied"
