"""make kind-up and make kind-down on a machine of stand-ins: what they do, in which order, and what a person reads."""

import contextlib
import io
import shutil
import socket
import subprocess

import pytest
import yaml

from components.core.errors import StepError
from pipelines.cluster import kind, ready
from pipelines.image_tags import sources_tag
from tests.unit.manifests.overlays import by_key, containers, documents
from tests.unit.pipelines.cluster.machine import Machine, scene, workload

KUBECTL = shutil.which("kubectl")
TAG = sources_tag()
OURS = [f"dwi-stroke/{name}:{TAG}" for name in ("components", "mlflow")]
CRASH = {"exitCode": 3, "reason": "Error"}


@contextlib.contextmanager
def there(folder):
    """A machine where nothing is made yet, with two free ports for the cluster."""
    with pytest.MonkeyPatch.context() as patch, Machine(folder / "machine") as machine:
        patch.setattr(kind, "KIND_CONFIG", machine.cluster_file(kind.KIND_CONFIG))
        patch.setenv("PATH", str(machine.path))
        patch.setenv("KUBECONFIG", str(machine.kubeconfig))
        patch.setenv("HTTPS_PROXY", "http://proxy.example:1")
        patch.setattr(ready, "PAUSE_SECONDS", 0)
        yield machine


@pytest.fixture
def machine(tmp_path):
    with there(tmp_path) as machine:
        yield machine


@pytest.fixture
def up(machine, tmp_path, capsys):
    """Run make kind-up; what it printed."""

    def up() -> str:
        kind.up(tmp_path / ".local")
        return capsys.readouterr().out

    return up


@pytest.fixture
def refused(machine, tmp_path):
    """Run make kind-up that must fail; what it said at the end."""

    def refused() -> str:
        with pytest.raises(StepError) as error:
            kind.up(tmp_path / ".local")
        return str(error.value)

    return refused


class TestPrerequisites:
    def test_what_it_needs_is_said_before_anything_else(self, machine, up):
        machine.has(*OURS)
        first, *_ = up().split("[1/5]")
        for needed in ("docker", "kind 0.32", "kubectl", "git", "8 GB of memory", "40 GB of free disk", "60 minutes"):
            assert needed in first

    def test_on_a_bare_machine_everything_missing_is_said_at_once_with_how_to_get_it(self, machine, refused):
        for tool in ("docker", "kind", "kubectl", "git"):
            (machine.path / tool).unlink()
        said = refused()
        for tool, place in (("docker", "docs.docker.com"), ("kind", "kind.sigs.k8s.io"), ("kubectl", "kubernetes.io")):
            assert any(line.split()[0] == tool and place in line for line in said.splitlines()), tool
        assert "git-scm.com" in said and "Nothing was changed" in said

    def test_an_old_kind_and_a_stopped_engine_are_said_together(self, machine, refused):
        machine.now(kind="kind v0.29.0 go1.24", docker={"ServerErrors": ["Cannot connect to the Docker daemon"]})
        said = refused()
        assert "v0.29.0, 0.32 or newer is needed" in said
        assert "engine does not answer: start Docker Desktop" in said and "Cannot connect" in said
        assert not machine.calls("kind create")

    def test_an_engine_that_one_may_not_use_is_no_stopped_one(self, machine, refused):
        machine.now(docker={"ServerErrors": ["permission denied while trying to connect to the Docker daemon socket"]})
        assert "usermod -aG docker" in refused()

    def test_too_little_memory_is_noted_and_tried(self, machine, up):
        machine.has(*OURS)
        machine.now(docker={"ServerVersion": "29", "NCPU": 2, "MemTotal": 4e9})
        said = up()
        assert "4.0 GB of memory, about 8 are needed" in said and "2 CPUs, about 4 are needed" in said
        assert "Ready" in said

    def test_a_taken_port_is_named(self, machine, refused):
        with socket.create_server(("127.0.0.1", machine.ports[0])):
            assert f"Another program on 127.0.0.1 has port {machine.ports[0]}." in refused()
        assert not machine.calls("kind create")


class TestFromNothing:
    @pytest.fixture(scope="class")
    def made(self, tmp_path_factory):
        """After make kind-up: the machine, and what was printed."""
        folder, said = tmp_path_factory.mktemp("nothing"), io.StringIO()
        with there(folder) as machine, contextlib.redirect_stdout(said):
            kind.up(folder / ".local")
        return machine, said.getvalue()

    def test_it_makes_all_of_it_and_ends_with_addresses_and_the_next_command(self, made):
        machine, said = made
        assert machine.state["cluster"] and machine.state["kfp"] == "2.17.0" and machine.state["loaded"] == OURS
        assert "Ready: all 3 parts" in said
        for end in (*(f"http://127.0.0.1:{port}" for port in machine.ports), "make pipeline-run TARGET=kind"):
            assert end in said
        assert f"http://127.0.0.1:{machine.ports[0]}  (no login: every user of this machine can" in said

    def test_the_images_of_the_steps_and_of_mlflow_are_built_with_the_sources_tag(self, made):
        built = [call.split("--tag ")[1].split()[0] for call in made[0].calls("docker build")]
        assert built == OURS

    def test_the_size_of_the_image_and_what_makes_it_smaller_are_said_before_it_is_built(self, made):
        before, *_ = made[1].partition("building dwi-stroke/components")[2].partition("loading")
        assert "6.2 GB" in before and "TORCH_INDEX" in before

    def test_kubeflow_pipelines_comes_from_its_pinned_tag(self, made):
        (clone,) = made[0].calls("git -c advice.detachedHead=false clone")
        assert "--branch 2.17.0 https://github.com/kubeflow/pipelines " in clone
        applied = [call.split("/kfp-")[1] for call in made[0].calls("kubectl") if "/kfp-" in call]
        assert applied == ["2.17.0-cluster-scoped-resources.yaml", "2.17.0-platform-agnostic.yaml"]

    def test_argo_does_not_wait_ten_seconds_between_a_steps_pods(self, made):
        (patch,) = made[0].calls("kubectl --context kind-dwi-stroke -n kubeflow patch deployment workflow-controller")
        file = kind.ROOT / "manifests" / "kind" / "workflow-controller.yaml"
        assert patch.endswith("workflow-controller.yaml") and "DEFAULT_REQUEUE_TIME" in file.read_text()

    def test_argo_tries_failed_steps_again_and_keeps_its_other_defaults(self, made):
        spec = yaml.safe_load(made[0].state["argo"]["workflowDefaults"])["spec"]
        assert spec["templateDefaults"]["retryStrategy"] == {
            "limit": "2",
            "retryPolicy": "Always",
            "expression": 'lastRetry.status == "Error" || asInt(lastRetry.exitCode) > 0',
        }
        assert spec["ttlStrategy"] == {"secondsAfterCompletion": 3600}
        assert made[0].state["argo"]["executor"] == "imagePullPolicy: IfNotPresent\n"

    def test_nested_downloads_get_more_time_than_kubectls_27_seconds(self, made):
        rendered = made[0].folder.parent / ".local/kind/kfp-2.17.0-platform-agnostic.yaml"
        assert "https://git.example/argo/crds?ref=v4.0.5&timeout=900s]" in rendered.read_text()

    @pytest.mark.skipif(not KUBECTL, reason="needs a real kubectl on the PATH")
    def test_what_is_applied_is_the_kind_overlay_with_this_tag(self, made):
        rendered = subprocess.check_output([KUBECTL, "kustomize", made[0].state["applied"]], text=True)
        objects = by_key(documents(rendered))
        images = {container["image"] for o in objects.values() for container in containers(o)}
        assert {image for image in images if image.startswith("dwi-stroke/")} == set(OURS)
        assert ("Service", "dwi-stroke", "mlflow-node-port") in objects

    def test_no_other_kube_context_is_touched_nor_left_behind_as_the_current_one(self, made):
        machine, said = made
        for call in machine.calls("kubectl"):
            local = call.split()[1] in ("version", "config", "kustomize")
            assert local or call.startswith("kubectl --context kind-dwi-stroke "), call
        assert machine.current_context() == "the-hospital" and "stays the-hospital" in said


@pytest.mark.slow
class TestAgain:
    def test_where_there_was_no_current_context_the_clusters_own_becomes_it(self, machine, up):
        machine.has(*OURS)
        machine.enter("")
        up()
        assert machine.current_context() == "kind-dwi-stroke"

    def test_a_second_run_finds_everything_and_makes_nothing(self, machine, up):
        up()
        machine.forget_calls()
        said = up()
        assert len(machine.calls("kubectl --context kind-dwi-stroke -n kubeflow patch deployment")) == 2
        assert "exists" in said and "is installed" in said and said.count("is in the cluster") == 2
        for made in ("kind create", "kind load", "docker build", "git -c"):
            assert not machine.calls(made)

    def test_a_cluster_that_was_made_before_gets_the_retries_too(self, machine, up):
        machine.has(*OURS)
        assert "failed steps are retried" in up()
        assert "retryPolicy: Always" in machine.state["argo"]["workflowDefaults"]
        machine.forget_calls()
        assert "failed steps are retried" not in up()
        assert not any(" patch configmap " in call for call in machine.calls("kubectl"))

    def test_after_an_interruption_it_goes_on(self, machine, up, refused):
        machine.now(failures={"kubectl --context kind-dwi-stroke apply -f": "connection refused"})
        assert "connection refused" in refused()
        machine.now(failures={})
        machine.forget_calls()
        assert "Ready" in up()
        assert not machine.calls("kind create") and not machine.calls("git -c")

    def test_a_half_made_cluster_is_made_anew(self, machine, up):
        machine.now(cluster=True, running=True)
        assert "was not finished" in up()
        assert machine.calls("kind delete") and machine.calls("kind create")

    def test_a_stopped_cluster_is_started(self, machine, up):
        machine.has(*OURS)
        machine.now(running=False)
        assert "was stopped: starting it" in up()
        assert machine.state["running"] and not machine.calls("kind create")

    def test_a_lost_context_comes_back(self, machine, up):
        machine.has(*OURS)
        assert "Ready" in up()
        assert machine.current_context() == "the-hospital"

    def test_changed_sources_are_built_and_loaded(self, machine, up, monkeypatch):
        machine.has(*OURS)
        monkeypatch.setattr(kind, "sources_tag", lambda: "another")
        up()
        assert "dwi-stroke/components:another" in machine.state["loaded"]


@pytest.mark.slow
class TestMakingFails:
    @pytest.mark.sampled(4)
    @pytest.mark.parametrize(
        ("said", "advice"),
        [
            ("failed to init node with kubeadm", "memory or disk is short"),
            ("write /var/lib: no space left on device", "docker system prune"),
            ("Bind for 127.0.0.1:8880 failed: port is already allocated", "change hostPort"),
            ("something new", "kind create cluster"),
        ],
    )
    def test_what_kind_says_is_passed_on_with_advice(self, machine, refused, said, advice):
        machine.now(failures={"kind create": f"ERROR: {said}"})
        message = refused()
        assert said in message and advice in message

    def test_a_failed_build_ends_it_with_the_builds_last_lines(self, machine, refused):
        machine.now(failures={"docker build": "pip: no such version"})
        assert "pip: no such version" in refused()


@pytest.mark.slow
class TestWaiting:
    @pytest.fixture(autouse=True)
    def installed(self, machine):
        machine.has(*OURS)

    def test_progress_names_what_is_waited_for_and_why(self, machine, up):
        pulling = workload("kubeflow", "mysql", False, state={"waiting": {"reason": "ContainerCreating"}})
        machine.scenes = [
            scene(pulling, workload("dwi-stroke", "mlflow"), events=('Pulling: Pulling image "mysql:8.4"',)),
            scene(),
        ]
        said = up()
        assert "1 of 2 ready" in said and 'kubeflow/mysql: Pulling: Pulling image "mysql:8.4"' in said

    @pytest.mark.parametrize(
        ("state", "why"),
        [
            (
                {"waiting": {"reason": "ImagePullBackOff", "message": "not found"}},
                "image registry.example/mlflow:1 cannot",
            ),
            ({"waiting": {"reason": "CreateContainerConfigError", "message": 'secret "s" not found'}}, 'secret "s"'),
        ],
    )
    def test_when_nothing_gets_on_any_more_it_ends_with_the_reason(self, machine, refused, monkeypatch, state, why):
        monkeypatch.setattr(ready, "STUCK_SECONDS", 0)
        machine.scenes = [scene(workload("dwi-stroke", "mlflow", False, state=state), events=("Failed: it did",))]
        said = refused()
        assert "dwi-stroke/mlflow: " in said and why in said and "Failed: it did" in said
        assert "make kind-up again: it continues from here" in said

    def test_a_crash_is_shown_with_the_containers_last_lines(self, machine, refused, monkeypatch):
        monkeypatch.setattr(ready, "STUCK_SECONDS", 0)
        crash = workload(
            "dwi-stroke", "mlflow", False, restartCount=3,
            state={"waiting": {"reason": "CrashLoopBackOff"}}, lastState={"terminated": CRASH},
        )  # fmt: skip
        machine.scenes = [scene(crash, log="connecting\npassword authentication failed\n")]
        said = refused()
        assert "exit code 3" in said and "its log ends:\n      connecting\n      password authentication failed" in said

    def test_while_anything_still_starts_it_waits(self, machine, up, monkeypatch):
        monkeypatch.setattr(ready, "STUCK_SECONDS", 0)
        crash = workload("kubeflow", "ml-pipeline", False, state={"terminated": CRASH})
        starting = workload("kubeflow", "mysql", False, state={"waiting": {"reason": "ContainerCreating"}})
        machine.scenes = [scene(crash, starting)] * 5 + [scene()]
        assert "Ready" in up()

    def test_a_failed_job_ends_it_at_once(self, machine, refused):
        job = workload("dwi-stroke", "create-bucket", False, "jobs", failed=True, state={"terminated": CRASH})
        machine.scenes = [scene(job, log="the bucket 'x' is another owner's")]
        assert "dwi-stroke/create-bucket" in (said := refused()) and "another owner's" in said

    def test_it_does_not_wait_for_ever(self, machine, refused, monkeypatch):
        monkeypatch.setattr(ready, "LIMIT_SECONDS", 0)
        machine.scenes = [
            scene(workload("kubeflow", "mysql", False, state={"waiting": {"reason": "ContainerCreating"}}))
        ]
        assert "kubeflow/mysql: none of its pods is ready" in refused()

    def test_an_api_server_that_stops_answering_is_said(self, machine, refused, monkeypatch):
        monkeypatch.setattr(ready, "STUCK_SECONDS", 0)
        machine.now(server="http://127.0.0.1:1")
        assert "API server does not answer" in refused()


@pytest.mark.slow
class TestRoom:
    """KFP, Kubernetes and MLflow asked for 1.7 of two CPUs, and the train step for one more."""

    @pytest.fixture(autouse=True)
    def installed(self, machine):
        machine.has(*OURS)

    def test_two_cpus_are_enough(self, machine, up):
        machine.has_room("2", "7Gi", *[{"cpu": "425m", "memory": "512Mi"}] * 4)
        assert "free for the steps of a run: 0.30 CPUs and 5.0 GB of memory" in up()

    @pytest.mark.parametrize(("cpu", "memory"), [("1900m", "7Gi"), ("4", "3Gi")])
    def test_where_no_step_finds_a_place_it_says_so_with_what_to_do(self, machine, refused, cpu, memory):
        machine.has_room(cpu, memory, *[{"cpu": "450m", "memory": "512Mi"}] * 4)
        said = refused()
        assert "do not fit" in said and "Give docker more CPUs or memory" in said

    def test_the_pods_of_a_run_that_goes_on_take_no_place_from_the_next(self, machine, up):
        machine.has_room("2", "7Gi", {"cpu": "1950m", "memory": "1Gi"})
        machine.other_pods[0]["metadata"]["labels"] = {"pipeline/runid": "a-run"}
        assert "free for the steps of a run: 2.00 CPUs" in up()

    def test_an_init_container_counts_where_it_asks_for_more(self, machine, refused):
        machine.has_room("2", "7Gi", {"cpu": "100m", "memory": "1Gi"}, init={"cpu": "1900m"})
        assert "0.10 CPUs" in refused()


@pytest.mark.slow
class TestCodeThatChanged:
    def test_the_image_of_the_present_code_is_built_and_loaded_before_a_run(self, machine, up, monkeypatch):
        up()
        monkeypatch.setattr(kind, "sources_tag", lambda: "changed")
        kind.provide_image()
        assert machine.state["loaded"] == [*OURS, "dwi-stroke/components:changed"]

    def test_where_it_is_loaded_nothing_is_done(self, machine, up):
        up()
        before = len(machine.calls("docker build") + machine.calls("kind load"))
        kind.provide_image()
        assert len(machine.calls("docker build") + machine.calls("kind load")) == before

    def test_a_cluster_that_is_not_dockers_here_is_left_alone(self, machine):
        (machine.path / "docker").unlink()
        kind.provide_image()
        assert not machine.calls("kind load")


class TestDown:
    def test_it_removes_the_cluster_and_says_what_stays(self, machine, up, tmp_path, capsys):
        up()
        kind.down(tmp_path / ".local")
        said = capsys.readouterr().out
        assert "is removed" in said and f"docker image rm {' '.join(OURS)}" in said
        assert not machine.state["cluster"] and not (tmp_path / ".local" / "kind").exists()

    def test_no_cluster_is_no_error(self, machine, tmp_path, capsys):
        kind.down(tmp_path / ".local")
        assert "There is no cluster to remove." in capsys.readouterr().out
        assert not machine.calls("kind delete")

    def test_without_kind_it_says_so(self, machine, tmp_path):
        (machine.path / "kind").unlink()
        with pytest.raises(StepError, match=r"kind .*is not installed"):
            kind.down(tmp_path / ".local")
