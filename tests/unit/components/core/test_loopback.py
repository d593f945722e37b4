"""Requests to this machine go past proxies, in each of the libraries that make them; others keep their way."""

import os
import urllib.request

import botocore.utils
import pytest
import requests

from components.core.loopback import around_proxy, is_here
from components.core.s3_client import connect

HERE = [
    "http://127.0.0.1:9000",
    "http://localhost:9000",
    "http://[::1]:9000",
    "https://127.0.0.1/x",
    "http://127.0.0.2:9",
]
ELSEWHERE = ["https://s3.example.org", "http://10.0.0.1:9000", "http://localhost.example.org", "http://127.example", ""]


@pytest.fixture(autouse=True)
def hospital(monkeypatch):
    """A machine whose proxy is set for everything."""
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://proxy.example:3128")


@pytest.mark.parametrize("url", HERE)
def test_this_machine_is_known_by_each_of_its_names(url):
    assert is_here(url)


@pytest.mark.parametrize("url", [*ELSEWHERE, "http://[::1", "sqlite:////srv/mlflow.db"])
def test_others_are_not_taken_for_it(url):
    assert not is_here(url)


@pytest.mark.parametrize("before", ["", "intranet.example, 10.0.0.7"])
@pytest.mark.parametrize("url", HERE)
def test_every_library_goes_past_the_proxy(url, before, monkeypatch):
    monkeypatch.setenv("no_proxy", before)
    for name, value in around_proxy(url).items():
        monkeypatch.setenv(name, value)
    assert requests.utils.should_bypass_proxies(url, no_proxy=None)
    assert botocore.utils.should_bypass_proxies(url)
    assert urllib.request.proxy_bypass(urllib.request.urlparse(url).netloc)
    assert around_proxy(url) == {}


def test_other_machines_keep_their_way(monkeypatch):
    monkeypatch.setenv("no_proxy", "intranet.example")
    for name, value in around_proxy(*ELSEWHERE).items():
        monkeypatch.setenv(name, value)
    assert requests.utils.should_bypass_proxies("http://intranet.example", no_proxy=None)
    assert not requests.utils.should_bypass_proxies("http://s3.example.org", no_proxy=None)


@pytest.mark.parametrize("setting", [{}, {"no_proxy": "*"}], ids=["no proxy", "none is used"])
def test_nothing_is_set_where_no_proxy_is_used(setting, monkeypatch):
    if not setting:
        monkeypatch.delenv("http_proxy")
        monkeypatch.delenv("https_proxy")
    for name, value in setting.items():
        monkeypatch.setenv(name, value)
    assert around_proxy() == {}


@pytest.mark.parametrize(("url", "proxied"), [*((url, False) for url in HERE), (ELSEWHERE[0], True)])
def test_an_s3_client_goes_past_the_proxy_by_itself(url, proxied, monkeypatch):
    for name, value in (("S3_ENDPOINT_URL", url), ("AWS_ACCESS_KEY_ID", "key"), ("AWS_SECRET_ACCESS_KEY", "secret")):
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    assert connect().meta.config.proxies == (None if proxied else {})  # None: botocore asks the environment
