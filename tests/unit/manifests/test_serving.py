"""The champion served by KServe, which makes a Deployment and a Service of the InferenceService.

kubernetes-validate knows no InferenceService: what it holds is checked as that Deployment.
"""

import os
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.unit.manifests.network import End, allowed
from tests.unit.manifests.overlays import MANIFESTS, OVERLAYS, RENDERER, by_key, documents, from_files
from tests.unit.manifests.test_network import DNS, IMPOSTOR, INTERNET, SEAWEEDFS, STEP, STRAY
from tests.unit.manifests.test_pods import violations

FOLDER = MANIFESTS / "serving"
OF_KSERVE = {"minReplicas", "maxReplicas", "labels"}
"""Fields of a predictor that are KServe's own (ComponentExtensionSpec); the others are a pod's."""


@pytest.fixture
def objects() -> dict:
    plan = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())
    return by_key([o for name in plan["resources"] for o in documents((FOLDER / name).read_text())])


@pytest.fixture
def service(objects) -> dict:
    return objects["InferenceService", "dwi-stroke", "dwi-attention-unet"]


@pytest.fixture
def predictor(service) -> dict:
    return service["spec"]["predictor"]


@pytest.fixture
def pod(predictor) -> dict:
    return {name: value for name, value in predictor.items() if name not in OF_KSERVE}


@pytest.fixture
def container(pod) -> dict:
    (container,) = pod["containers"]
    return container


def test_kserve_takes_it_for_a_container_of_ours_in_a_plain_deployment(service, container):
    assert (service["apiVersion"], service["spec"].keys()) == ("serving.kserve.io/v1beta1", {"predictor"})
    assert service["metadata"]["annotations"]["serving.kserve.io/deploymentMode"] == "RawDeployment"
    assert container["name"] == "kserve-container"
    assert container["image"] == "dwi-stroke/components"


def test_it_is_not_led_out_of_the_cluster_since_it_asks_for_no_login(service):
    assert service["metadata"]["labels"]["networking.kserve.io/visibility"] == "cluster-local"


def test_its_pod_is_restricted_read_only_and_bounded(objects, pod, container):
    assert violations(pod) == []
    assert pod["automountServiceAccountToken"] is pod["enableServiceLinks"] is False
    assert objects["ServiceAccount", "dwi-stroke", pod["serviceAccountName"]]["automountServiceAccountToken"] is False
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert [mount["mountPath"] for mount in container["volumeMounts"]] == ["/tmp"]
    assert all("sizeLimit" in volume["emptyDir"] for volume in pod["volumes"])
    assert {"cpu", "memory"} == container["resources"]["requests"].keys() == container["resources"]["limits"].keys()


@pytest.mark.parametrize("version", ["1.33", "1.36"])
def test_the_deployment_that_kserve_makes_of_it_is_one(predictor, pod, version):
    validate = pytest.importorskip("kubernetes_validate").validate
    labels = predictor["labels"]
    template = {"metadata": {"labels": labels}, "spec": pod}
    spec = {"replicas": predictor["minReplicas"], "selector": {"matchLabels": labels}, "template": template}
    validate({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "x"}, "spec": spec}, version, True)


def test_it_has_mlflows_login_alone_since_the_model_comes_through_mlflow(container, service, secrets):
    refs = [v["valueFrom"]["secretKeyRef"] for v in container["env"] if "secretKeyRef" in v.get("valueFrom", {})]
    assert refs == [{"name": "dwi-stroke-mlflow", "key": "MLFLOW_TRACKING_TOKEN"}]
    assert secrets["dwi-stroke-mlflow"] == {"MLFLOW_TRACKING_TOKEN"}
    assert yaml.safe_dump(service).lower().count("secret") == len(refs)


def test_the_model_is_asked_of_mlflow_alone_and_no_wait_for_it_is_silent(container):
    """Its network policy keeps it from S3, to which MLflow's server would send it."""
    given = {variable["name"]: variable.get("value") for variable in container["env"]}
    assert given["MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD"] == "false"
    assert int(given["MLFLOW_HTTP_REQUEST_TIMEOUT"]) <= 60


def test_its_settings_are_there(container):
    settings = from_files("gpu-cluster")["ConfigMap", "dwi-stroke", "dwi-stroke-settings"]["data"]
    (generator,) = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())["configMapGenerator"]
    own = dict(line.split("=", 1) for line in (FOLDER / "settings.env").read_text().splitlines())
    assert own == {"MODEL_URI": "models:/dwi-attention-unet@champion"}
    known = {"dwi-stroke-settings": settings, generator["name"]: own}
    for variable in container["env"]:
        if ref := variable.get("valueFrom", {}).get("configMapKeyRef"):
            assert ref["key"] in known[ref["name"]]


def test_it_runs_what_mlflow_itself_would_with_the_model_named_as_it_would(container):
    from mlflow.pyfunc import scoring_server

    command, environment = scoring_server.get_cmd("model", port=8080, host="0.0.0.0")
    program, *options = container["command"]
    assert (program, options[-1]) == ("uvicorn", command.split()[-1])
    assert {"--host=0.0.0.0", "--port=8080"} <= set(options)
    names = {variable["name"] for variable in container["env"]}
    assert scoring_server._SERVER_MODEL_PATH in names
    assert {"MLFLOW_TRACKING_URI", "MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT"} <= names and environment


def test_the_image_of_the_steps_has_what_the_server_needs():
    dockerfile = (MANIFESTS.parent / "images" / "steps.Dockerfile").read_text()
    pinned = {line.split("==")[0] for line in (MANIFESTS.parent / "requirements.txt").read_text().splitlines()}
    left_out = dockerfile.split("wanted = !/^(")[1].split(")==")[0].split("|")
    assert {"mlflow", "fastapi", "uvicorn", "starlette", "pandas"} <= pinned - set(left_out)


def test_it_is_ready_when_the_model_is_loaded(container):
    from mlflow.pyfunc import scoring_server

    ports = {port["containerPort"] for port in container["ports"]}
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["httpGet"]["path"] == "/ping" and container[probe]["httpGet"]["port"] in ports
    assert "/ping" in scoring_server.__doc__


class TestNetwork:
    """Beside the policies of either overlay."""

    CLIENT = End("viewers", {})

    @pytest.fixture(params=["kind", "gpu-cluster"])
    def may(self, request, objects):
        both = [*from_files(request.param).values(), *objects.values()]
        policies = [o for o in both if o["kind"] == "NetworkPolicy"]
        return lambda *way: allowed(policies, *way)

    @pytest.fixture
    def server(self, predictor) -> End:
        return End("dwi-stroke", predictor["labels"])

    @pytest.fixture
    def mlflow(self) -> End:
        workload = from_files("kind")["Deployment", "dwi-stroke", "mlflow"]
        return End("dwi-stroke", workload["spec"]["template"]["metadata"]["labels"])

    def test_it_reaches_mlflow_and_names_and_nothing_else(self, may, server, mlflow):
        assert may(server, mlflow, 5000) and may(server, DNS, 53, "UDP") and may(server, DNS, 53)
        for target, port in ((mlflow, 22), (SEAWEEDFS, 8333), (INTERNET, 443), (DNS, 9153)):
            assert not may(server, target, port)

    def test_nobody_reaches_it_who_was_not_let_in(self, may, server, mlflow):
        for source in (STEP, IMPOSTOR, STRAY, mlflow, INTERNET, self.CLIENT):
            assert not may(source, server, 8080)

    def test_the_way_in_is_a_label_of_the_clients_namespace(self, objects):
        (rule,) = objects["NetworkPolicy", "dwi-stroke", "serving"]["spec"]["ingress"]
        assert rule["from"] == [{"namespaceSelector": {"matchLabels": {"dwi-stroke/may-segment": "true"}}}]
        assert rule["ports"] == [{"port": 8080, "protocol": "TCP"}]


@pytest.mark.skipif(not RENDERER, reason="needs kubectl or kustomize on the PATH")
class TestRendered:
    COMMAND = (RENDERER, "build") if RENDERER and RENDERER.endswith("kustomize") else (RENDERER, "kustomize")

    def rendered(self, folder: Path) -> dict:
        return by_key(documents(subprocess.check_output([*self.COMMAND, folder], text=True)))

    def test_it_renders_with_our_label_on_everything(self):
        found = self.rendered(FOLDER)
        assert len(found) == 5
        assert all(o["metadata"]["labels"]["app.kubernetes.io/part-of"] == "dwi-stroke" for o in found.values())

    def test_it_is_part_of_the_overlay_only_for_those_who_ask_since_others_have_no_kserve(self, tmp_path):
        lines = (OVERLAYS["gpu-cluster"] / "kustomization.yaml").read_text()
        assert "  # - ../../serving " in lines
        assert not any(kind == "InferenceService" for kind, _, _ in self.rendered(OVERLAYS["gpu-cluster"]))
        resources = [os.path.relpath(folder, tmp_path) for folder in (OVERLAYS["gpu-cluster"], FOLDER)]
        image = {"name": "dwi-stroke/components", "newName": "r.example.org/components", "newTag": "0123abcd"}
        (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump({"resources": resources, "images": [image]}))
        service = self.rendered(tmp_path)["InferenceService", "dwi-stroke", "dwi-attention-unet"]
        assert service["spec"]["predictor"]["containers"][0]["image"] == "r.example.org/components:0123abcd"

    @pytest.mark.parametrize("version", ["1.33", "1.36"])
    def test_the_schemas_of_kubernetes_hold_for_the_rest(self, version):
        validate = pytest.importorskip("kubernetes_validate").validate
        for (kind, _, _), o in self.rendered(FOLDER).items():
            if kind != "InferenceService":
                validate(o, version, strict=True)
