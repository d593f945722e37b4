"""Who may talk to MLflow, PostgreSQL and object storage, and that nobody else may."""

import pytest
import yaml

from tests.unit.manifests.network import End, allowed
from tests.unit.manifests.overlays import pod

STEP = End("kubeflow", {"app.kubernetes.io/part-of": "dwi-stroke", "pipeline/runid": "0123"})
OTHER_STEP = End("kubeflow", {"pipeline/runid": "0123"})
IMPOSTOR = End("default", {"app.kubernetes.io/part-of": "dwi-stroke", "app.kubernetes.io/name": "mlflow"})
STRAY = End("dwi-stroke", {"app.kubernetes.io/part-of": "dwi-stroke"})
SEAWEEDFS = End("kubeflow", {"app": "seaweedfs"})
KFP_UI = End("kubeflow", {"app": "ml-pipeline-ui"})
KFP_API = End("kubeflow", {"app": "ml-pipeline"})
DNS = End("kube-system", {"k8s-app": "kube-dns"})
INGRESS = End("ingress-nginx", {"app.kubernetes.io/name": "ingress-nginx"})
LAPTOP = End(ip="172.18.0.1")
KUBELET = End(ip="10.244.0.1")
INTERNET = End(ip="203.0.113.7")
CLOUD_METADATA = End(ip="169.254.169.254")

UPSTREAM = yaml.safe_load("""
metadata: {name: seaweedfs, namespace: kubeflow}  # as KFP 2.17.0 ships it, without Istio's part
spec:
  podSelector: {matchExpressions: [{key: app, operator: In, values: [seaweedfs]}]}
  policyTypes: [Ingress]
  ingress:
    - from: [{namespaceSelector: {matchLabels: {app.kubernetes.io/part-of: kubeflow-profile}}}]
      ports: [{port: 8333}]
    - from: [{podSelector: {}}]
      ports: [{port: 8333}]
""")


def policies(objects):
    return [o for (kind, _, _), o in objects.items() if kind == "NetworkPolicy"] + [UPSTREAM]


def ours(objects, kind, name):
    template = pod(objects[kind, "dwi-stroke", name])
    return End("dwi-stroke", template["metadata"]["labels"])


@pytest.fixture
def may(objects):
    return lambda *way: allowed(policies(objects), *way)


@pytest.fixture
def mlflow(objects):
    return ours(objects, "Deployment", "mlflow")


@pytest.fixture
def bucket_job(objects):
    return ours(objects, "Job", "create-bucket")


def test_everything_in_the_namespace_is_denied_by_default(objects):
    deny = objects["NetworkPolicy", "dwi-stroke", "default-deny"]["spec"]
    assert deny == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}


def test_every_policy_says_which_directions_it_means(objects):
    assert all(policy["spec"]["policyTypes"] for policy in policies(objects))


def test_a_step_reaches_mlflow(may, mlflow):
    assert may(STEP, mlflow, 5000)


@pytest.mark.parametrize("port", [22, 80, 5432, 8080])
def test_and_no_other_port_of_it(may, mlflow, port):
    assert not may(STEP, mlflow, port)


@pytest.mark.parametrize("other", [OTHER_STEP, IMPOSTOR, STRAY, KFP_API, SEAWEEDFS])
def test_nobody_else_in_the_cluster_does(may, mlflow, other):
    assert not may(other, mlflow, 5000)


def test_mlflow_and_the_bucket_job_resolve_names(may, mlflow, bucket_job):
    for end in (mlflow, bucket_job):
        assert may(end, DNS, 53, "UDP") and may(end, DNS, 53, "TCP")
        assert not may(end, DNS, 9153)
        assert not may(end, KFP_API, 53, "UDP")


def test_mlflow_and_the_bucket_job_do_not_reach_each_other_nor_the_steps(may, mlflow, bucket_job):
    assert not may(bucket_job, mlflow, 5000)
    assert not may(mlflow, bucket_job, 80)
    assert not may(mlflow, STEP, 8080)


def test_a_stray_pod_in_the_namespace_reaches_nothing(may, mlflow):
    for target, port in ((mlflow, 5000), (SEAWEEDFS, 8333), (INTERNET, 443), (KFP_API, 8888)):
        assert not may(STRAY, target, port)
    assert not may(STRAY, DNS, 53, "UDP")


class TestKind:
    @pytest.fixture
    def objects(self, kind):
        return kind

    @pytest.fixture
    def postgres(self, objects):
        return ours(objects, "StatefulSet", "postgres")

    def test_mlflow_alone_reaches_postgres(self, may, mlflow, bucket_job, postgres):
        assert may(mlflow, postgres, 5432)
        assert not may(mlflow, postgres, 22)
        for other in (STEP, OTHER_STEP, IMPOSTOR, STRAY, bucket_job, LAPTOP, INTERNET, SEAWEEDFS):
            assert not may(other, postgres, 5432)

    def test_postgres_reaches_nothing(self, may, mlflow, postgres):
        for target, port in ((mlflow, 5000), (SEAWEEDFS, 8333), (INTERNET, 443), (KFP_API, 8888)):
            assert not may(postgres, target, port)
        assert not may(postgres, DNS, 53, "UDP")

    def test_mlflow_the_bucket_job_and_the_steps_reach_object_storage(self, may, mlflow, bucket_job):
        for end in (mlflow, bucket_job, STEP):
            assert may(end, SEAWEEDFS, 8333)

    def test_and_of_it_the_s3_port_alone(self, may, mlflow, bucket_job):
        for end in (mlflow, bucket_job, STEP):
            assert not any(may(end, SEAWEEDFS, port) for port in (8111, 8888, 9333, 18888, 19333))

    def test_nobody_else_outside_of_kubeflow_reaches_it(self, may):
        for end in (STRAY, IMPOSTOR, INGRESS, LAPTOP, INTERNET):
            assert not may(end, SEAWEEDFS, 8333)

    def test_kfps_own_pods_still_reach_it_and_their_page(self, may):
        assert may(KFP_API, SEAWEEDFS, 8333)
        assert may(OTHER_STEP, SEAWEEDFS, 8333)
        assert may(KFP_API, KFP_UI, 3000)

    def test_the_laptop_reaches_the_two_pages_through_the_node_ports(self, may, mlflow):
        assert may(LAPTOP, mlflow, 5000)
        assert may(LAPTOP, KFP_UI, 3000)
        assert not may(IMPOSTOR, KFP_UI, 3000)

    def test_the_kubelet_probes_mlflow(self, may, mlflow):
        assert may(KUBELET, mlflow, 5000)

    def test_nothing_of_ours_reaches_the_internet(self, may, mlflow, bucket_job):
        for end in (mlflow, bucket_job):
            assert not any(may(end, INTERNET, port) for port in (80, 443, 5432))

    def test_policies_and_node_agree_on_the_pods_network(self, objects, cluster):
        pods = cluster["networking"]["podSubnet"]
        exceptions = [
            except_
            for policy in policies(objects)
            for rule in policy["spec"].get("ingress", [])
            for peer in rule.get("from", [])
            for except_ in peer.get("ipBlock", {}).get("except", [])
        ]
        assert exceptions == [pods, pods]


class TestGpuCluster:
    @pytest.fixture
    def objects(self, gpu_cluster):
        return gpu_cluster

    def test_the_ingress_controller_reaches_mlflow(self, may, mlflow):
        assert may(INGRESS, mlflow, 5000)
        assert not may(INGRESS, mlflow, 22)

    def test_nobody_outside_of_the_cluster_does(self, may, mlflow):
        assert not may(LAPTOP, mlflow, 5000)
        assert not may(INTERNET, mlflow, 5000)

    def test_mlflow_reaches_s3_and_the_database_outside(self, may, mlflow):
        assert may(mlflow, INTERNET, 443)
        assert may(mlflow, INTERNET, 5432)
        assert not may(mlflow, INTERNET, 80)

    def test_the_bucket_job_reaches_s3_alone(self, may, bucket_job):
        assert may(bucket_job, INTERNET, 443)
        assert not may(bucket_job, INTERNET, 5432)

    def test_nothing_reaches_the_clouds_metadata(self, may, mlflow, bucket_job):
        for end in (mlflow, bucket_job):
            assert not any(may(end, CLOUD_METADATA, port) for port in (80, 443, 5432))


class TestEvaluator:
    """The evaluator itself, on the documentation's own statements."""

    HERE, THERE = End("a", {"app": "x"}), End("b", {"app": "y"})

    def policy(self, **spec):
        return {"metadata": {"namespace": "a"}, "spec": {"podSelector": {}, **spec}}

    def test_a_pod_that_no_policy_selects_is_open(self):
        assert allowed([self.policy(policyTypes=["Ingress"])], self.THERE, End("c"), 1)

    def test_a_rule_without_peers_allows_all(self):
        assert allowed([self.policy(policyTypes=["Ingress"], ingress=[{}])], self.THERE, self.HERE, 1)

    def test_an_empty_list_of_rules_allows_none(self):
        assert not allowed([self.policy(policyTypes=["Ingress"], ingress=[])], self.THERE, self.HERE, 1)

    def test_two_selectors_in_one_peer_must_both_hold_and_in_two_peers_one(self):
        namespace = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "b"}}}
        pods = {"podSelector": {"matchLabels": {"app": "z"}}}
        one = [self.policy(policyTypes=["Ingress"], ingress=[{"from": [namespace | pods]}])]
        two = [self.policy(policyTypes=["Ingress"], ingress=[{"from": [namespace, pods]}])]
        assert not allowed(one, self.THERE, self.HERE, 1)
        assert allowed(two, self.THERE, self.HERE, 1)

    def test_a_pod_selector_alone_means_the_policys_own_namespace(self):
        rules = [{"from": [{"podSelector": {}}]}]
        policy = [self.policy(policyTypes=["Ingress"], ingress=rules)]
        assert allowed(policy, End("a"), self.HERE, 1)
        assert not allowed(policy, self.THERE, self.HERE, 1)

    def test_both_sides_must_allow(self):
        open_in = self.policy(policyTypes=["Ingress"], ingress=[{}])
        closed_out = {"metadata": {"namespace": "b"}, "spec": {"podSelector": {}, "policyTypes": ["Egress"]}}
        assert not allowed([open_in, closed_out], self.THERE, self.HERE, 1)

    def test_policies_add_up(self):
        closed = self.policy(policyTypes=["Ingress"])
        opened = self.policy(policyTypes=["Ingress"], ingress=[{"ports": [{"port": 1}]}])
        assert allowed([closed, opened], self.THERE, self.HERE, 1)
        assert not allowed([closed, opened], self.THERE, self.HERE, 2)
