"""Makes a bucket of an S3 server and the one user who may use it, or prints what the bucket holds.

bucket.py prepare URL CA BUCKET            prints {"id": ..., "secret": ...}
bucket.py read URL CA BUCKET ID SECRET     prints {"<object>": "<content>", ...}
"""

import json
import sys

import boto3
from botocore.config import Config

verb, url, ca, bucket = sys.argv[1:5]
config = Config(retries={"max_attempts": 0}, connect_timeout=10, read_timeout=20, s3={"addressing_style": "path"})


def client(service, key_id, secret):
    return boto3.client(
        service,
        endpoint_url=url,
        verify=ca,
        region_name="us-east-1",
        aws_access_key_id=key_id,
        aws_secret_access_key=secret,
        config=config,
    )


if verb == "prepare":
    # The server checks nobody until the fourth of these calls has been answered.
    iam = client("iam", "nobody", "nothing")
    iam.create_user(UserName="gate")
    allow = {"Effect": "Allow", "Action": "s3:*", "Resource": "*"}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [allow]})
    iam.put_user_policy(UserName="gate", PolicyName="bucket", PolicyDocument=policy)
    key = iam.create_access_key(UserName="gate")["AccessKey"]
    client("s3", "nobody", "nothing").create_bucket(Bucket=bucket)
    print(json.dumps({"id": key["AccessKeyId"], "secret": key["SecretAccessKey"]}))
else:
    s3 = client("s3", *sys.argv[5:7])
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket)
    names = [item["Key"] for page in pages for item in page.get("Contents", [])]
    content = {name: s3.get_object(Bucket=bucket, Key=name)["Body"].read().decode() for name in names}
    print(json.dumps(content))
