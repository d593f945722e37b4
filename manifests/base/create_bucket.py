"""Create the bucket S3_BUCKET where it is missing. The Job create-bucket runs this."""

import os
import sys
import time

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

PATIENCE_SECONDS = 120


def ensure(client, bucket: str, region: str) -> str:
    """Create the bucket where it is missing; return a sentence about it. ClientError where the server refuses."""
    try:
        client.head_bucket(Bucket=bucket)
        return f"the bucket '{bucket}' exists"
    except ClientError as error:
        if error.response["Error"]["Code"] not in ("404", "NoSuchBucket", "NotFound"):
            raise
    elsewhere = {} if region == "us-east-1" else {"CreateBucketConfiguration": {"LocationConstraint": region}}
    try:
        client.create_bucket(Bucket=bucket, **elsewhere)
    except ClientError as error:
        if error.response["Error"]["Code"] not in ("BucketAlreadyOwnedByYou", "BucketAlreadyExists"):
            raise
        client.head_bucket(Bucket=bucket)  # another pod of this Job was faster; or another owner has it: then 403
        return f"the bucket '{bucket}' exists"
    return f"the bucket '{bucket}' is created"


def advice(error: ClientError, bucket: str) -> str:
    """Return the error with the way to solve it."""
    code = error.response["Error"]["Code"]
    what_to_do = {
        "403": "The credentials in the Secret dwi-stroke-s3 are wrong or have no right to it, or another owner has it: "
        "correct them, grant them the right, or choose another S3_BUCKET.",
        "301": "It is in another region: correct AWS_DEFAULT_REGION.",
        "InvalidBucketName": "Correct S3_BUCKET: 3 to 63 lower-case letters, digits and hyphens.",
        "InvalidAccessKeyId": "Correct AWS_ACCESS_KEY_ID in the Secret dwi-stroke-s3.",
        "SignatureDoesNotMatch": "Correct AWS_SECRET_ACCESS_KEY in the Secret dwi-stroke-s3.",
    }.get(code, "")
    return f"the bucket '{bucket}': {error}. {what_to_do}".strip()


def main() -> None:
    endpoint, bucket, region = (os.environ[name] for name in ("S3_ENDPOINT_URL", "S3_BUCKET", "AWS_DEFAULT_REGION"))
    client = boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name=region,
        config=Config(connect_timeout=5, read_timeout=20, retries={"max_attempts": 1}),
    )
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            return print(ensure(client, bucket, region))
        except ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] < 500:
                sys.exit(advice(error, bucket))
            problem = error
        except BotoCoreError as error:
            problem = error
        if time.monotonic() > deadline:
            sys.exit(
                f"{endpoint} does not answer: {problem}. Does S3 run, and may this pod reach it (NetworkPolicies)?"
            )
        print(f"waiting for {endpoint}: {problem}", flush=True)
        time.sleep(5)


if __name__ == "__main__":
    main()
