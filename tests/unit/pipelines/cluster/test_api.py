"""What goes wrong between here and the KFP API, and what is said of it."""

import http.server
import ssl
import subprocess

import pytest

from tests.support.http_stand_in import Server


@pytest.fixture
def hospital_run(cluster, kubeflow, tracking, monkeypatch):
    """A run on a cluster that is given by addresses; its exit code."""
    monkeypatch.setenv("KFP_HOST", kubeflow.url)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking)
    return lambda: cluster("run", "--target", "cluster", "--data", "s3://bucket/scans")


def test_a_bearer_token_opens_it(hospital_run, kubeflow, monkeypatch, capsys, tmp_path):
    kubeflow.token = "opensesame"
    monkeypatch.setenv("KFP_TOKEN", "opensesame")
    assert hospital_run() == 0
    out, err = capsys.readouterr()
    assert "opensesame" not in out + err
    assert not any("opensesame" in f.read_text(errors="replace") for f in tmp_path.rglob("*.json"))


def test_a_cookie_is_sent_with_every_call(hospital_run, kubeflow, monkeypatch):
    monkeypatch.setenv("KFP_COOKIE", "authservice_session=abc")
    assert hospital_run() == 0
    assert all(headers.get("Cookie") == "authservice_session=abc" for headers in kubeflow.headers)


def test_without_a_token_where_one_is_wanted_the_variables_are_named(hospital_run, kubeflow, capsys):
    kubeflow.token = "opensesame"
    assert hospital_run() == 1
    assert "refuses access (401): set KFP_TOKEN (a bearer token) or KFP_COOKIE" in capsys.readouterr().err


@pytest.mark.parametrize("variable", ["KFP_TOKEN", "KFP_COOKIE"])
def test_a_refused_login_is_named_and_not_shown(hospital_run, kubeflow, monkeypatch, capsys, variable):
    kubeflow.token = "opensesame"
    monkeypatch.setenv(variable, "wrong-one")
    assert hospital_run() == 1
    out, err = capsys.readouterr()
    assert f"{variable} is wrong or has expired" in err and "wrong-one" not in out + err


def test_what_one_may_not_do_is_told_in_the_servers_words(hospital_run, kubeflow, monkeypatch, capsys):
    monkeypatch.setenv("KFP_TOKEN", "mine")
    kubeflow.faults = [(403, '{"code": 7, "message": "User cannot list pipelines", "details": []}')]
    assert hospital_run() == 1
    err = capsys.readouterr().err
    assert "KFP_TOKEN is wrong, has expired, or has not the right to do this. User cannot list pipelines" in err


def test_a_login_page_in_the_way_is_recognised(hospital_run, kubeflow, capsys):
    kubeflow.faults = [(302, "<a href=/dex/auth>Found</a>")]
    assert hospital_run() == 1
    assert "redirects to a login page: set KFP_TOKEN" in capsys.readouterr().err


@pytest.mark.parametrize(
    "answer", [(404, "404 page not found"), (200, "<!doctype html><title>MLflow</title>"), (200, '{"status": "OK"}')]
)
def test_an_address_that_is_not_kfps_is_recognised(hospital_run, kubeflow, capsys, answer):
    kubeflow.faults = [answer]
    assert hospital_run() == 1
    assert f"the server at {kubeflow.url} is not the KFP API" in capsys.readouterr().err


def test_a_servers_fault_is_tried_again(hospital_run, kubeflow):
    kubeflow.faults = [
        (503, "<html>upstream connect error</html>"),
        (500, "{}"),
        (429, "slow down"),
        (502, b"\xff\xfe"),
    ]
    assert hospital_run() == 0


def test_a_fault_that_stays_is_told_after_a_while(hospital_run, kubeflow, capsys):
    kubeflow.faults = [(503, '{"code": 14, "message": "no healthy upstream"}')] * 1000
    assert hospital_run() == 1
    assert "answers 503: no healthy upstream (tried for 1 s)" in capsys.readouterr().err


def test_an_api_server_that_is_not_ready_is_waited_for(hospital_run, kubeflow):
    kubeflow.faults = [(200, '{"frontendTagName": "2.17.0", "apiServerReady": false}')]
    assert hospital_run() == 0


def test_nothing_behind_the_address_is_told_at_once(hospital_run, kubeflow, capsys):
    kubeflow.vanish()
    assert hospital_run() == 1
    err = capsys.readouterr().err
    assert f"no Kubeflow Pipelines at {kubeflow.url}" in err and "Connection refused" in err and "KFP_HOST" in err


def test_on_kind_nothing_behind_the_address_means_make_kind_up(cluster, kubeflow, capsys):
    kubeflow.vanish()
    assert cluster("run", "--target", "kind", "--data", "s3://b/p") == 1
    assert "make kind-up" in capsys.readouterr().err


def test_an_address_without_a_scheme_is_corrected(hospital_run, monkeypatch, capsys):
    monkeypatch.setenv("KFP_HOST", "kubeflow.example.org")
    assert hospital_run() == 1
    assert "Write it as https://kubeflow.example.org" in capsys.readouterr().err


@pytest.mark.parametrize("variable", ["KFP_HOST", "MLFLOW_TRACKING_URI"])
def test_a_login_in_an_address_is_refused_and_not_shown(hospital_run, monkeypatch, capsys, variable):
    monkeypatch.setenv(variable, "https://me:opensesame@example.org")
    assert hospital_run() == 1
    out, err = capsys.readouterr()
    assert f"{variable} holds a login" in err and "opensesame" not in out + err


def test_a_certificate_that_is_not_trusted_names_the_variable(hospital_run, monkeypatch, capsys, tmp_path):
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    make = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1"]
    make += ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    try:
        subprocess.run([*make, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("needs openssl")
    with Secure(certificate, key) as server:
        monkeypatch.setenv("KFP_HOST", server.url)
        assert hospital_run() == 1
        assert "set REQUESTS_CA_BUNDLE" in capsys.readouterr().err
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
        assert hospital_run() == 1
        assert "is not the KFP API" in capsys.readouterr().err


class Secure(Server):
    def __init__(self, certificate, key):
        super().__init__()
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(certificate, key)

    def __enter__(self):
        super().__enter__()
        self._server.socket = self.context.wrap_socket(self._server.socket, server_side=True)
        self.url = self.url.replace("http", "https", 1)
        return self

    def route(self, method, path, body):
        return http.server.HTTPStatus.OK, "[]"


def test_kfp_for_many_users_wants_a_namespace(hospital_run, kubeflow, monkeypatch, capsys):
    kubeflow.multi_user = True
    assert hospital_run() == 1
    assert "set KFP_NAMESPACE" in capsys.readouterr().err
    monkeypatch.setenv("KFP_NAMESPACE", "stroke-team")
    assert hospital_run() == 0
    assert kubeflow.pipelines[0].namespace == kubeflow.experiments[0].namespace == "stroke-team"


def test_kfps_own_settings_are_neither_read_nor_written(hospital_run, monkeypatch, tmp_path, capsys):
    home = tmp_path / "home"
    (home / ".config" / "kfp").mkdir(parents=True)
    (home / ".config" / "kfp" / "context.json").write_text("{damaged")
    monkeypatch.setenv("HOME", str(home))
    assert hospital_run() == 0
    assert (home / ".config" / "kfp" / "context.json").read_text() == "{damaged"
    assert capsys.readouterr().err == ""
