"""Make the bucket S3_BUCKET where it is missing; leave it alone where it is there. Run by the Job create-bucket."""

import os
import sys
import time

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

PATIENCE_SECONDS = 120


def ensure(client, bucket: str, region: str) -> str:
    """What was found or done, as a sentence; ClientError where the server refuses."""
    try:
        client.head_bucket(Bucket=bucket)
        return f"the bucket '{bucket}' is there"
    except ClientError as error:
        if error.response["Error"]["Code"] not in ("404", "NoSuchBucket", "NotFound"):
            raise
    elsewhere = {} if region == "us-east-1" else {"CreateBucketConfiguration": {"LocationConstraint": region}}
    try:
        client.create_bucket(Bucket=bucket, **elsewhere)
    except ClientError as error:
        if error.response["Error"]["Code"] not in ("BucketAlreadyOwnedByYou", "BucketAlreadyExists"):
            raise
        client.head_bucket(Bucket=bucket)  # another pod of this Job was quicker, or it is another owner's: then 403
        return f"the bucket '{bucket}' is there"
    return f"the bucket '{bucket}' is made"


def advice(error: ClientError, bucket: str) -> str:
    """What a person can do about a refusal."""
    code = error.response["Error"]["Code"]
    what_to_do = {
        "403": "The credentials in the Secret dwi-stroke-s3 are wrong or may not see it, or it is another owner's: "
        "correct them, grant them the right to it, or choose another S3_BUCKET.",
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
                f"{endpoint} does not answer: {problem}. Is S3 up, and do the NetworkPolicies let this pod reach it?"
            )
        print(f"waiting for {endpoint}: {problem}", flush=True)
        time.sleep(5)


if __name__ == "__main__":
    main()
