"""The bucket Job's script: makes what is missing, leaves what is there, and says what to do about a refusal."""

import importlib.util

import boto3
import pytest
from botocore.exceptions import ClientError, EndpointConnectionError
from botocore.stub import Stubber

from tests.unit.manifests.overlays import MANIFESTS

BUCKET, REGION = "dwi-stroke", "us-east-1"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("create_bucket", MANIFESTS / "base" / "create_bucket.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def client():
    return boto3.client("s3", region_name=REGION, aws_access_key_id="k", aws_secret_access_key="s")


@pytest.fixture
def server(client):
    with Stubber(client) as stubber:
        yield stubber
        stubber.assert_no_pending_responses()


def refuse(server, operation, code, status):
    server.add_client_error(operation, service_error_code=code, http_status_code=status)


def test_a_bucket_that_is_there_is_left_alone(script, client, server):
    server.add_response("head_bucket", {}, {"Bucket": BUCKET})
    assert script.ensure(client, BUCKET, REGION) == "the bucket 'dwi-stroke' exists"


def test_a_missing_bucket_is_made(script, client, server):
    refuse(server, "head_bucket", "404", 404)
    server.add_response("create_bucket", {}, {"Bucket": BUCKET})
    assert script.ensure(client, BUCKET, REGION) == "the bucket 'dwi-stroke' is created"


def test_in_another_region_it_is_made_there(script, client, server):
    refuse(server, "head_bucket", "404", 404)
    there = {"LocationConstraint": "eu-central-1"}
    server.add_response("create_bucket", {}, {"Bucket": BUCKET, "CreateBucketConfiguration": there})
    script.ensure(client, BUCKET, "eu-central-1")


@pytest.mark.parametrize("code", ["BucketAlreadyOwnedByYou", "BucketAlreadyExists"])
def test_a_quicker_pod_of_the_same_job_is_no_problem(script, client, server, code):
    refuse(server, "head_bucket", "404", 404)
    refuse(server, "create_bucket", code, 409)
    server.add_response("head_bucket", {}, {"Bucket": BUCKET})
    assert script.ensure(client, BUCKET, REGION) == "the bucket 'dwi-stroke' exists"


@pytest.mark.parametrize(
    ("operation", "code", "status", "said"),
    [
        ("head_bucket", "403", 403, "choose another S3_BUCKET"),
        ("head_bucket", "301", 301, "correct AWS_DEFAULT_REGION"),
        ("create_bucket", "InvalidBucketName", 400, "Correct S3_BUCKET"),
        ("create_bucket", "InvalidAccessKeyId", 403, "AWS_ACCESS_KEY_ID in the Secret dwi-stroke-s3"),
        ("create_bucket", "SignatureDoesNotMatch", 403, "AWS_SECRET_ACCESS_KEY in the Secret dwi-stroke-s3"),
    ],
)
def test_a_refusal_is_said_with_what_to_do(script, client, server, operation, code, status, said):
    if operation == "create_bucket":
        refuse(server, "head_bucket", "404", 404)
    refuse(server, operation, code, status)
    with pytest.raises(ClientError) as refusal:
        script.ensure(client, BUCKET, REGION)
    assert said in script.advice(refusal.value, BUCKET)


@pytest.fixture
def run(script, monkeypatch):
    """Run the script as the Job does, its attempts answered one after another; no time passes but in its sleeps."""

    def run(*answers):
        clock, rest = [0.0], iter(answers)
        monkeypatch.setenv("S3_ENDPOINT_URL", "http://seaweedfs.kubeflow:8333")
        monkeypatch.setenv("S3_BUCKET", BUCKET)
        monkeypatch.setenv("AWS_DEFAULT_REGION", REGION)
        monkeypatch.setattr(script.boto3, "client", lambda *_, **__: None)
        monkeypatch.setattr(script.time, "monotonic", lambda: clock[0])
        monkeypatch.setattr(script.time, "sleep", lambda seconds: clock.__setitem__(0, clock[0] + seconds))

        def ensure(*_):
            answer = next(rest, answers[-1])
            if isinstance(answer, Exception):
                raise answer
            return answer

        monkeypatch.setattr(script, "ensure", ensure)
        script.main()

    return run


def error(status, code="x"):
    return ClientError({"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}, "HeadBucket")


UNREACHABLE = EndpointConnectionError(endpoint_url="http://seaweedfs.kubeflow:8333")


def test_it_waits_for_a_store_that_is_still_starting(run, capsys):
    run(UNREACHABLE, error(503), "the bucket is made")
    assert capsys.readouterr().out.splitlines()[-1] == "the bucket is made"


def test_it_gives_up_on_one_that_never_answers(run):
    with pytest.raises(SystemExit, match=r"does not answer.*NetworkPolicies"):
        run(UNREACHABLE)


def test_it_does_not_wait_where_the_store_refuses(run):
    with pytest.raises(SystemExit, match="Secret dwi-stroke-s3"):
        run(error(403, "403"))
