"""The S3 API by boto3, with its default checksums."""

import base64
import concurrent.futures
import filecmp
import hashlib
import random

import awscrt.checksums
import boto3
import botocore
import pytest
import requests
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import ClientError


def code(call, **arguments):
    """The code of the error that a call must give."""
    with pytest.raises(ClientError) as caught:
        call(**arguments)
    return caught.value.response["Error"]["Code"]


def body(size, seed=1):
    return random.Random(seed).randbytes(size)


@pytest.mark.parametrize("size", [0, 1, 4096, 262_144, 262_145, 4_194_304, 9_000_001])
def test_what_is_put_is_got(s3, bucket, size):
    data = body(size)
    put = s3.put_object(Bucket=bucket, Key="a/b c+ü", Body=data, Metadata={"color": "blue"}, ContentType="x/y")
    got = s3.get_object(Bucket=bucket, Key="a/b c+ü")
    assert got["Body"].read() == data
    assert got["ETag"] == put["ETag"] == f'"{hashlib.md5(data).hexdigest()}"'
    assert (got["Metadata"], got["ContentType"]) == ({"color": "blue"}, "x/y")
    if size > 100:
        part = s3.get_object(Bucket=bucket, Key="a/b c+ü", Range=f"bytes={size - 70}-{size - 20}")
        assert part["Body"].read() == data[-70:-19]
        assert part["ResponseMetadata"]["HTTPStatusCode"] == 206
    assert s3.head_object(Bucket=bucket, Key="a/b c+ü")["ContentLength"] == size


@pytest.mark.parametrize("algorithm", ["CRC32", "CRC32C", "CRC64NVME", "SHA1", "SHA256"])
def test_checksums_are_kept_and_checked(s3, bucket, algorithm):
    s3.put_object(Bucket=bucket, Key="k", Body=b"hello", ChecksumAlgorithm=algorithm)
    head = s3.head_object(Bucket=bucket, Key="k", ChecksumMode="ENABLED")
    assert head[f"Checksum{algorithm}"]
    wrong = {f"Checksum{algorithm}": head[f"Checksum{algorithm}"]}
    assert code(s3.put_object, Bucket=bucket, Key="k", Body=b"hellO", **wrong) == "BadDigest"
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"hello"


def test_multipart_in_any_order_with_a_part_replaced(s3, bucket):
    parts = [body(5 << 20, seed) for seed in (1, 2)] + [body(77, 3)]
    upload = s3.create_multipart_upload(Bucket=bucket, Key="m", Metadata={"k": "v"})["UploadId"]
    name = dict(Bucket=bucket, Key="m", UploadId=upload)
    s3.upload_part(PartNumber=2, Body=b"replaced", **name)
    tags = {n: s3.upload_part(PartNumber=n, Body=parts[n - 1], **name)["ETag"] for n in (3, 2, 1)}
    listed = s3.list_parts(**name)["Parts"]
    assert [(p["PartNumber"], p["Size"]) for p in listed] == [(n, len(parts[n - 1])) for n in (1, 2, 3)]
    assert [u["Key"] for u in s3.list_multipart_uploads(Bucket=bucket)["Uploads"]] == ["m"]
    chosen = [{"PartNumber": n, "ETag": tags[n]} for n in (1, 2, 3)]
    wrong = [dict(chosen[0], ETag='"0"')] + chosen[1:]
    assert code(s3.complete_multipart_upload, MultipartUpload={"Parts": wrong}, **name) == "InvalidPart"
    backwards = {"Parts": chosen[::-1]}
    assert code(s3.complete_multipart_upload, MultipartUpload=backwards, **name) == "InvalidPartOrder"
    done = s3.complete_multipart_upload(MultipartUpload={"Parts": chosen}, **name)
    again = s3.complete_multipart_upload(MultipartUpload={"Parts": chosen}, **name)
    assert again["ETag"] == done["ETag"] and done["ETag"].endswith('-3"')
    got = s3.get_object(Bucket=bucket, Key="m")
    assert got["Body"].read() == b"".join(parts) and got["Metadata"] == {"k": "v"}
    assert s3.get_object(Bucket=bucket, Key="m", PartNumber=2)["Body"].read() == parts[1]
    assert "Uploads" not in s3.list_multipart_uploads(Bucket=bucket)
    assert code(s3.list_parts, **name) == "NoSuchUpload"


def test_an_aborted_upload_is_gone_and_small_parts_are_refused(s3, bucket):
    upload = s3.create_multipart_upload(Bucket=bucket, Key="m")["UploadId"]
    name = dict(Bucket=bucket, Key="m", UploadId=upload)
    tags = [s3.upload_part(PartNumber=n, Body=b"small", **name)["ETag"] for n in (1, 2)]
    parts = {"Parts": [{"PartNumber": n + 1, "ETag": tag} for n, tag in enumerate(tags)]}
    assert code(s3.complete_multipart_upload, MultipartUpload=parts, **name) == "EntityTooSmall"
    s3.abort_multipart_upload(**name)
    assert code(s3.upload_part, PartNumber=1, Body=b"x", **name) == "NoSuchUpload"
    assert code(s3.head_object, Bucket=bucket, Key="m") == "404"


def test_copies_keep_or_replace_metadata_and_heed_conditions(s3, bucket):
    data = body(6_000_000)
    etag = s3.put_object(Bucket=bucket, Key="a", Body=data, Metadata={"k": "1"})["ETag"]
    source = {"Bucket": bucket, "Key": "a"}
    s3.copy_object(Bucket=bucket, Key="b", CopySource=source)
    assert s3.head_object(Bucket=bucket, Key="b")["Metadata"] == {"k": "1"}
    s3.copy_object(Bucket=bucket, Key="b", CopySource=source, MetadataDirective="REPLACE", Metadata={"k": "2"})
    got = s3.get_object(Bucket=bucket, Key="b")
    assert got["Metadata"] == {"k": "2"} and got["Body"].read() == data
    refused = dict(Bucket=bucket, Key="c", CopySource=source, CopySourceIfNoneMatch=etag)
    assert code(s3.copy_object, **refused) == "PreconditionFailed"
    assert code(s3.copy_object, Bucket=bucket, Key="a", CopySource=source) == "InvalidRequest"


def test_only_one_of_many_conditional_writers_wins(s3, bucket):
    def write(number):
        try:
            s3.put_object(Bucket=bucket, Key="once", Body=str(number).encode(), IfNoneMatch="*")
            return number
        except ClientError as error:
            assert error.response["Error"]["Code"] == "PreconditionFailed"
            return None

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        winners = [number for number in pool.map(write, range(32)) if number is not None]
    assert len(winners) == 1
    assert s3.get_object(Bucket=bucket, Key="once")["Body"].read() == str(winners[0]).encode()
    etag = s3.head_object(Bucket=bucket, Key="once")["ETag"]
    s3.put_object(Bucket=bucket, Key="once", Body=b"next", IfMatch=etag)
    assert code(s3.put_object, Bucket=bucket, Key="once", Body=b"late", IfMatch=etag) == "PreconditionFailed"


def test_listings_page_and_roll_up(s3, bucket):
    keys = sorted(f"{top}/{number:02}" for top in "abc" for number in range(7)) + ["z"]
    for key in keys:
        s3.put_object(Bucket=bucket, Key=key, Body=b"")
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, PaginationConfig={"PageSize": 5})
    assert [o["Key"] for page in pages for o in page["Contents"]] == keys
    pages = s3.get_paginator("list_objects").paginate(Bucket=bucket, PaginationConfig={"PageSize": 5})
    assert [o["Key"] for page in pages for o in page["Contents"]] == keys
    rolled = s3.list_objects_v2(Bucket=bucket, Delimiter="/")
    assert [p["Prefix"] for p in rolled["CommonPrefixes"]] == ["a/", "b/", "c/"]
    assert [o["Key"] for o in rolled["Contents"]] == ["z"]
    deleted = s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": key} for key in keys]})
    assert len(deleted["Deleted"]) == len(keys)
    assert "Contents" not in s3.list_objects_v2(Bucket=bucket)


def test_conditional_reads(s3, bucket):
    etag = s3.put_object(Bucket=bucket, Key="k", Body=b"x")["ETag"]
    assert code(s3.get_object, Bucket=bucket, Key="k", IfNoneMatch=etag) == "304"
    assert code(s3.get_object, Bucket=bucket, Key="k", IfMatch='"0"') == "PreconditionFailed"
    assert code(s3.get_object, Bucket=bucket, Key="k", Range="bytes=5-") == "InvalidRange"


def test_presigned_urls_work_until_they_expire_and_only_as_signed(s3, bucket):
    name = {"Bucket": bucket, "Key": "p"}
    put = s3.generate_presigned_url("put_object", Params=name, ExpiresIn=60)
    assert requests.put(put, data=b"by url").status_code == 200
    get = s3.generate_presigned_url("get_object", Params=name, ExpiresIn=60)
    assert requests.get(get).content == b"by url"
    assert requests.get(get.replace("/p?", "/q?")).status_code == 403
    assert requests.delete(get).status_code == 403
    assert "<Code>AccessDenied</Code>" in requests.get(get.split("?")[0]).text
    expired = s3.generate_presigned_url("get_object", Params=name, ExpiresIn=-1)
    assert "expired" in requests.get(expired).text


def test_virtual_hosts_and_path_style_are_the_same(store, s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    url = store.endpoints["s3"]["url"]
    signed = boto3.client(
        "s3",
        endpoint_url=url.replace("127.0.0.1", "localhost"),
        aws_access_key_id=store.endpoints["s3"]["access_key"],
        aws_secret_access_key=store.endpoints["s3"]["secret_key"],
        region_name=store.endpoints["s3"]["region"],
        config=Config(s3={"addressing_style": "virtual"}),
    )
    link = signed.generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": "k"})
    host = link.split("/")[2]
    assert host.startswith(f"{bucket}.localhost")
    port = url.rsplit(":", 1)[1]
    local = link.replace(host, f"127.0.0.1:{port}", 1)
    assert requests.get(local, headers={"Host": host}).content == b"x"


def test_a_wrong_secret_key_region_or_user_is_refused(store):
    def client(access=None, secret=None, region=None):
        s3 = store.endpoints["s3"]
        return boto3.client("s3", endpoint_url=s3["url"], aws_access_key_id=access or s3["access_key"],
                            aws_secret_access_key=secret or s3["secret_key"], region_name=region or s3["region"])

    assert code(client(secret="wrong").list_buckets) == "SignatureDoesNotMatch"
    assert code(client(access="nobody").list_buckets) == "InvalidAccessKeyId"
    assert code(client(region="mars-1").list_buckets) == "AuthorizationHeaderMalformed"


def test_bad_names_and_missing_things_have_their_codes(s3, bucket):
    assert code(s3.create_bucket, Bucket=bucket) == "BucketAlreadyOwnedByYou"
    assert code(s3.list_objects_v2, Bucket="not-there-at-all") == "NoSuchBucket"
    assert code(s3.get_object, Bucket=bucket, Key="none") == "NoSuchKey"
    assert code(s3.put_object, Bucket=bucket, Key="k" * 1025, Body=b"") == "KeyTooLongError"
    assert code(s3.put_object, Bucket=bucket, Key="k", Body=b"", Metadata={"a": "x" * 3000}) == "MetadataTooLarge"
    s3.put_object(Bucket=bucket, Key="k", Body=b"")
    assert code(s3.delete_bucket, Bucket=bucket) == "BucketNotEmpty"
    # A bucket's name is checked by boto3 itself unless that is switched off.
    loose = s3.meta.events
    loose.unregister("before-parameter-build.s3", botocore.handlers.validate_bucket_name)
    assert code(s3.create_bucket, Bucket="Bad_Name") == "InvalidBucketName"


def test_attributes(s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"hello")
    wanted = ["ETag", "Checksum", "ObjectSize", "StorageClass"]
    found = s3.get_object_attributes(Bucket=bucket, Key="k", ObjectAttributes=wanted)
    assert found["ObjectSize"] == 5 and found["Checksum"]["ChecksumCRC32"]
    assert s3.get_bucket_location(Bucket=bucket)["LocationConstraint"] is None


ALGORITHMS = {
    "CRC32": lambda data: awscrt.checksums.crc32(data).to_bytes(4, "big"),
    "CRC32C": lambda data: awscrt.checksums.crc32c(data).to_bytes(4, "big"),
    "CRC64NVME": lambda data: awscrt.checksums.crc64nvme(data).to_bytes(8, "big"),
    "SHA1": lambda data: hashlib.sha1(data).digest(),
    "SHA256": lambda data: hashlib.sha256(data).digest(),
}


def checksum(algorithm, data):
    return base64.b64encode(ALGORITHMS[algorithm](data)).decode()


@pytest.mark.parametrize("algorithm,kind", [
    ("CRC32", "COMPOSITE"), ("CRC32C", "COMPOSITE"), ("SHA1", "COMPOSITE"), ("SHA256", "COMPOSITE"),
    ("CRC32", "FULL_OBJECT"), ("CRC32C", "FULL_OBJECT"), ("CRC64NVME", "FULL_OBJECT"),
])
def test_multipart_checksums_are_of_the_parts_or_of_the_whole(s3, bucket, algorithm, kind):
    parts = [body(5 << 20, 1), body(1_000_003, 2)]
    field = f"Checksum{algorithm}"
    upload = s3.create_multipart_upload(Bucket=bucket, Key="m", ChecksumAlgorithm=algorithm, ChecksumType=kind)
    assert (upload["ChecksumAlgorithm"], upload["ChecksumType"]) == (algorithm, kind)
    name = dict(Bucket=bucket, Key="m", UploadId=upload["UploadId"])
    chosen = []
    for number, data in enumerate(parts, 1):
        done = s3.upload_part(PartNumber=number, Body=data, ChecksumAlgorithm=algorithm, **name)
        assert done[field] == checksum(algorithm, data)
        chosen.append({"PartNumber": number, "ETag": done["ETag"], field: done[field]})
    assert [part[field] for part in s3.list_parts(**name)["Parts"]] == [part[field] for part in chosen]
    if kind == "COMPOSITE":
        together = b"".join(ALGORITHMS[algorithm](data) for data in parts)
        expected = checksum(algorithm, together) + "-2"
    else:
        expected = checksum(algorithm, b"".join(parts))
    wrong = {field: checksum(algorithm, b"wrong")}
    finish = dict(MultipartUpload={"Parts": chosen}, ChecksumType=kind, **name)
    assert code(s3.complete_multipart_upload, **wrong, **finish) == "BadDigest"
    bad = [dict(chosen[0], **wrong), chosen[1]]
    assert code(s3.complete_multipart_upload, **dict(finish, MultipartUpload={"Parts": bad})) == "InvalidPart"
    assert code(s3.complete_multipart_upload, MpuObjectSize=7, **finish) == "InvalidRequest"
    done = s3.complete_multipart_upload(MpuObjectSize=sum(map(len, parts)), **finish)
    assert (done[field], done["ChecksumType"]) == (expected, kind)
    head = s3.head_object(Bucket=bucket, Key="m", ChecksumMode="ENABLED")
    assert (head[field], head["ChecksumType"]) == (expected, kind)
    got = s3.get_object(Bucket=bucket, Key="m", ChecksumMode="ENABLED")
    assert got["Body"].read() == b"".join(parts)
    listed = s3.list_objects_v2(Bucket=bucket)["Contents"][0]
    assert (listed["ChecksumAlgorithm"], listed["ChecksumType"]) == ([algorithm], kind)
    found = s3.get_object_attributes(Bucket=bucket, Key="m", ObjectAttributes=["Checksum", "ObjectParts"])
    assert found["Checksum"][field] == expected and found["ObjectParts"]["TotalPartsCount"] == 2
    assert [(p["PartNumber"], p["Size"]) for p in found["ObjectParts"]["Parts"]] == [(1, 5 << 20), (2, 1_000_003)]
    # A copy is one object with a checksum of its own whole.
    copy = s3.copy_object(Bucket=bucket, Key="c", CopySource={"Bucket": bucket, "Key": "m"})["CopyObjectResult"]
    assert copy[field] == checksum(algorithm, b"".join(parts))


@pytest.mark.parametrize("signed", [True, False])
def test_the_transfer_manager_goes_both_ways_in_parts(store, s3, bucket, tmp_path, signed):
    there, back = tmp_path / "there", tmp_path / "back"
    there.write_bytes(body(25_000_001))
    config = TransferConfig(multipart_threshold=6 << 20, multipart_chunksize=6 << 20, max_concurrency=4)
    client = s3
    if not signed:
        named = store.endpoints["s3"]
        client = boto3.client(
            "s3", endpoint_url=named["url"], aws_access_key_id=named["access_key"], region_name=named["region"],
            aws_secret_access_key=named["secret_key"],
            config=Config(s3={"payload_signing_enabled": False}, request_checksum_calculation="when_required"),
        )
    extra = {"Metadata": {"k": "v"}, "Tagging": "a=1"}
    client.upload_file(str(there), bucket, "big", Config=config, ExtraArgs=extra)
    assert s3.head_object(Bucket=bucket, Key="big")["ETag"].endswith('-4"')
    client.download_file(bucket, "big", str(back), Config=config)
    assert filecmp.cmp(there, back, shallow=False)
    client.copy({"Bucket": bucket, "Key": "big"}, bucket, "copy", Config=config)
    client.download_file(bucket, "copy", str(back), Config=config)
    assert filecmp.cmp(there, back, shallow=False)
    assert s3.get_object_tagging(Bucket=bucket, Key="big")["TagSet"] == [{"Key": "a", "Value": "1"}]


ODD = ["..", ".", "a/../b", "../../x", "a//b", "/a", "//", "a/", "+", "a+b c", "%", "%41", "%2F", "ä ö/ü", "日本", "🐋",
       "a&b=c", "<x>", "'\"", "#?", " lead and trail ", "a\tb", "a\nb", "\u007f", "k" * 1024, "~._-", "*()!@$,:;"]


def test_odd_keys_are_kept_as_they_are(s3, bucket):
    for number, key in enumerate(ODD):
        s3.put_object(Bucket=bucket, Key=key, Body=str(number).encode())
    expected = sorted(ODD, key=str.encode)
    for listing in (s3.list_objects_v2, s3.list_objects):
        assert [found["Key"] for found in listing(Bucket=bucket)["Contents"]] == expected
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, PaginationConfig={"PageSize": 2})
    assert [found["Key"] for page in pages for found in page["Contents"]] == expected
    for number, key in enumerate(ODD):
        assert s3.get_object(Bucket=bucket, Key=key)["Body"].read() == str(number).encode(), key
        copied = "copy of " + key[:1000]
        s3.copy_object(Bucket=bucket, Key=copied, CopySource={"Bucket": bucket, "Key": key})
        assert s3.get_object(Bucket=bucket, Key=copied)["Body"].read() == str(number).encode(), key
        url = s3.generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": key})
        # requests would undo the dots of a path.
        assert ".." in key or key == "." or requests.get(url).content == str(number).encode(), key
    keys = [{"Key": key} for key in ODD]
    deleted = s3.delete_objects(Bucket=bucket, Delete={"Objects": keys})["Deleted"]
    assert [one["Key"] for one in deleted] == ODD
    left = [found["Key"] for found in s3.list_objects_v2(Bucket=bucket)["Contents"]]
    assert len(left) == len(ODD) and all(key.startswith("copy of ") for key in left)


def test_tags(s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"x", Tagging="a=1&b=%C3%BC+x")
    head = s3.get_object(Bucket=bucket, Key="k")
    assert head["TagCount"] == 2
    tags = [{"Key": "a", "Value": "1"}, {"Key": "b", "Value": "ü x"}]
    assert s3.get_object_tagging(Bucket=bucket, Key="k")["TagSet"] == tags
    source = {"Bucket": bucket, "Key": "k"}
    s3.copy_object(Bucket=bucket, Key="c", CopySource=source)
    assert s3.get_object_tagging(Bucket=bucket, Key="c")["TagSet"] == tags
    s3.copy_object(Bucket=bucket, Key="c", CopySource=source, TaggingDirective="REPLACE", Tagging="c=")
    assert s3.get_object_tagging(Bucket=bucket, Key="c")["TagSet"] == [{"Key": "c", "Value": ""}]
    listed = s3.list_objects_v2(Bucket=bucket)["Contents"]
    s3.put_object_tagging(Bucket=bucket, Key="k", Tagging={"TagSet": tags[:1]})
    assert s3.list_objects_v2(Bucket=bucket)["Contents"] == listed
    assert s3.head_object(Bucket=bucket, Key="k")["LastModified"] == head["LastModified"]
    s3.delete_object_tagging(Bucket=bucket, Key="k")
    assert s3.get_object_tagging(Bucket=bucket, Key="k")["TagSet"] == []
    assert "TagCount" not in s3.get_object(Bucket=bucket, Key="k")
    eleven = {"TagSet": [{"Key": str(number), "Value": ""} for number in range(11)]}
    assert code(s3.put_object_tagging, Bucket=bucket, Key="k", Tagging=eleven) == "BadRequest"
    assert code(s3.put_object, Bucket=bucket, Key="k", Body=b"", Tagging="a=1&a=2") == "InvalidTag"
    assert code(s3.get_object_tagging, Bucket=bucket, Key="none") == "NoSuchKey"
    assert code(s3.get_bucket_tagging, Bucket=bucket) == "NoSuchTagSet"
    s3.put_bucket_tagging(Bucket=bucket, Tagging={"TagSet": tags})
    assert s3.get_bucket_tagging(Bucket=bucket)["TagSet"] == tags
    s3.delete_bucket_tagging(Bucket=bucket)
    assert code(s3.get_bucket_tagging, Bucket=bucket) == "NoSuchTagSet"


def test_canned_acls_are_those_of_the_bucket(store, s3, bucket):
    everybody = "http://acs.amazonaws.com/groups/global/AllUsers"

    def grants():
        found = s3.get_bucket_acl(Bucket=bucket)
        assert [grant["Permission"] for grant in found["Grants"]][0] == "FULL_CONTROL"
        return [(grant["Grantee"].get("URI"), grant["Permission"]) for grant in found["Grants"][1:]]

    s3.put_object(Bucket=bucket, Key="k", Body=b"for all")
    url = "{}/v1/AUTH_{}/{}/k".format(store.endpoints["s3"]["url"], store.endpoints["swift"]["user"].split(":")[0],
                                      bucket)
    assert grants() == [] and requests.get(url).status_code == 401
    s3.put_bucket_acl(Bucket=bucket, ACL="public-read")
    assert grants() == [(everybody, "READ")] and requests.get(url).content == b"for all"
    s3.put_object(Bucket=bucket, Key="l", Body=b"", ACL="public-read")
    policy = s3.get_bucket_acl(Bucket=bucket)
    s3.put_bucket_acl(Bucket=bucket, ACL="private")
    assert grants() == [] and requests.get(url).status_code == 401
    unsupported = "AccessControlListNotSupported"
    assert code(s3.put_object, Bucket=bucket, Key="l", Body=b"", ACL="public-read") == unsupported
    s3.put_bucket_acl(Bucket=bucket, AccessControlPolicy={key: policy[key] for key in ("Owner", "Grants")})
    assert grants() == [(everybody, "READ")]
    assert code(s3.put_bucket_acl, Bucket=bucket, ACL="public-read-write") == unsupported
    assert code(s3.put_bucket_acl, Bucket=bucket, ACL="nonsense") == "InvalidArgument"
    assert code(s3.put_bucket_acl, Bucket="not-there-at-all", ACL="private") == "NoSuchBucket"


def test_configuration_that_a_bucket_lacks_is_said_to_be_absent(s3, bucket):
    absent = {
        "policy": "NoSuchBucketPolicy", "policy_status": "NoSuchBucketPolicy", "cors": "NoSuchCORSConfiguration",
        "encryption": "ServerSideEncryptionConfigurationNotFoundError", "website": "NoSuchWebsiteConfiguration",
        "lifecycle_configuration": "NoSuchLifecycleConfiguration", "tagging": "NoSuchTagSet",
        "replication": "ReplicationConfigurationNotFoundError",
        "ownership_controls": "OwnershipControlsNotFoundError",
    }
    for name, expected in absent.items():
        assert code(getattr(s3, f"get_bucket_{name}"), Bucket=bucket) == expected
    assert code(s3.get_public_access_block, Bucket=bucket) == "NoSuchPublicAccessBlockConfiguration"
    assert code(s3.get_object_lock_configuration, Bucket=bucket) == "ObjectLockConfigurationNotFoundError"
    assert code(s3.get_bucket_inventory_configuration, Bucket=bucket, Id="x") == "NoSuchConfiguration"
    assert s3.list_bucket_metrics_configurations(Bucket=bucket)["IsTruncated"] is False
    assert "Status" not in s3.get_bucket_accelerate_configuration(Bucket=bucket)
    assert "LoggingEnabled" not in s3.get_bucket_logging(Bucket=bucket)
    assert s3.get_bucket_request_payment(Bucket=bucket)["Payer"] == "BucketOwner"
    s3.get_bucket_notification_configuration(Bucket=bucket)
    s3.delete_bucket_policy(Bucket=bucket)
    assert code(s3.put_bucket_policy, Bucket=bucket, Policy="{}") == "NotImplemented"
    assert code(s3.get_bucket_cors, Bucket="not-there-at-all") == "NoSuchBucket"


def test_conditions_of_completions_copies_and_deletes(s3, bucket):
    def upload(key, **conditions):
        begun = s3.create_multipart_upload(Bucket=bucket, Key=key)["UploadId"]
        name = dict(Bucket=bucket, Key=key, UploadId=begun)
        tag = s3.upload_part(PartNumber=1, Body=b"part", **name)["ETag"]
        parts = {"Parts": [{"PartNumber": 1, "ETag": tag}]}
        return lambda: s3.complete_multipart_upload(MultipartUpload=parts, **name, **conditions)

    etag = s3.put_object(Bucket=bucket, Key="k", Body=b"x")["ETag"]
    assert code(upload("k", IfNoneMatch="*")) == "PreconditionFailed"
    assert code(upload("k", IfMatch='"0"')) == "PreconditionFailed"
    assert code(upload("none", IfMatch=etag)) == "NoSuchKey"
    etag = upload("k", IfMatch=etag)()["ETag"]
    source = {"Bucket": bucket, "Key": "k"}
    assert code(s3.copy_object, Bucket=bucket, Key="k", CopySource=source, IfNoneMatch="*",
                MetadataDirective="REPLACE") == "PreconditionFailed"
    s3.copy_object(Bucket=bucket, Key="copy", CopySource=source, IfNoneMatch="*")
    assert code(s3.delete_object, Bucket=bucket, Key="k", IfMatch='"0"') == "PreconditionFailed"
    assert code(s3.delete_object, Bucket=bucket, Key="none", IfMatch="*") == "PreconditionFailed"
    s3.delete_object(Bucket=bucket, Key="k", IfMatch=etag)
    s3.delete_object(Bucket=bucket, Key="k")
    named = {"Objects": [{"Key": "copy", "ETag": '"0"'}]}
    assert s3.delete_objects(Bucket=bucket, Delete=named)["Errors"][0]["Code"] == "PreconditionFailed"


def test_parts_and_uploads_are_listed_by_pages(s3, bucket):
    uploads = []
    for key in ("a/1", "a/2", "b", "b", "c/x"):
        uploads.append((key, s3.create_multipart_upload(Bucket=bucket, Key=key)["UploadId"]))
    uploads.sort()
    pages = s3.get_paginator("list_multipart_uploads").paginate(Bucket=bucket, PaginationConfig={"PageSize": 2})
    assert [(u["Key"], u["UploadId"]) for page in pages for u in page.get("Uploads", [])] == uploads
    rolled = s3.list_multipart_uploads(Bucket=bucket, Delimiter="/")
    assert [p["Prefix"] for p in rolled["CommonPrefixes"]] == ["a/", "c/"]
    assert [u["Key"] for u in rolled["Uploads"]] == ["b", "b"]
    assert [u["Key"] for u in s3.list_multipart_uploads(Bucket=bucket, Prefix="a/")["Uploads"]] == ["a/1", "a/2"]
    name = dict(Bucket=bucket, Key="b", UploadId=next(upload for key, upload in uploads if key == "b"))
    for number in (1, 2, 5, 9, 10_000):
        s3.upload_part(PartNumber=number, Body=b"x", **name)
    pages = s3.get_paginator("list_parts").paginate(PaginationConfig={"PageSize": 2}, **name)
    assert [p["PartNumber"] for page in pages for p in page["Parts"]] == [1, 2, 5, 9, 10_000]
    s3.delete_bucket(Bucket=bucket)
    s3.create_bucket(Bucket=bucket)
    assert "Uploads" not in s3.list_multipart_uploads(Bucket=bucket)


def test_listings_begin_where_they_are_told(s3, bucket):
    for key in ("a", "b", "c", "d"):
        s3.put_object(Bucket=bucket, Key=key, Body=b"")
    assert [o["Key"] for o in s3.list_objects_v2(Bucket=bucket, StartAfter="b")["Contents"]] == ["c", "d"]
    page = s3.list_objects_v2(Bucket=bucket, StartAfter="a", MaxKeys=1)
    assert [o["Key"] for o in page["Contents"]] == ["b"] and page["KeyCount"] == 1
    rest = s3.list_objects_v2(Bucket=bucket, StartAfter="a", ContinuationToken=page["NextContinuationToken"])
    assert [o["Key"] for o in rest["Contents"]] == ["c", "d"]
    assert "Owner" not in page["Contents"][0]
    assert s3.list_objects_v2(Bucket=bucket, FetchOwner=True)["Contents"][0]["Owner"]["ID"]
    assert code(s3.list_objects_v2, Bucket=bucket, ContinuationToken="?") == "InvalidArgument"
    assert [o["Key"] for o in s3.list_objects(Bucket=bucket, Marker="c")["Contents"]] == ["d"]
    assert s3.list_objects_v2(Bucket=bucket, MaxKeys=0)["KeyCount"] == 0
    names = [b["Name"] for b in s3.list_buckets(Prefix=bucket)["Buckets"]]
    assert names == [bucket]
    pages = s3.get_paginator("list_buckets").paginate(PaginationConfig={"PageSize": 1})
    assert bucket in [b["Name"] for page in pages for b in page["Buckets"]]


@pytest.mark.parametrize("version", ["s3", "s3v4"])
def test_browsers_upload_by_forms_that_a_policy_allows(store, bucket, version):
    named = store.endpoints["s3"]
    s3 = boto3.client("s3", endpoint_url=named["url"], aws_access_key_id=named["access_key"],
                      aws_secret_access_key=named["secret_key"], region_name=named["region"],
                      config=Config(signature_version=version))
    meta = {"x-amz-meta-color": "blue", "Content-Type": "a/b", "success_action_status": "201"}
    rules = [{name: value} for name, value in meta.items()] + [["content-length-range", 3, 9_000_000]]

    def post(data, key="up/${filename}", fields=meta, conditions=rules, expires=60, change=(), query=""):
        form = s3.generate_presigned_post(bucket, key, Fields=dict(fields), Conditions=conditions, ExpiresIn=expires)
        sent = form["fields"] | dict(change)
        return requests.post(form["url"] + query, data=sent, files={"file": ("n ame", data)})

    for size in (3, 300_000, 8_000_000):
        data = body(size)
        answer = post(data, query="?acl&uploadId=x")
        assert answer.status_code == 201 and "<Key>up/n ame</Key>" in answer.text, answer.text
        got = s3.get_object(Bucket=bucket, Key="up/n ame")
        assert got["Body"].read() == data and (got["ContentType"], got["Metadata"]) == ("a/b", {"color": "blue"})
    before = s3.list_objects_v2(Bucket=bucket)["Contents"]

    def refused(expected, status=403, **named):
        answer = post(**{"data": b"data", **named})
        assert (answer.status_code, f"<Code>{expected}</Code>" in answer.text) == (status, True), answer.text

    refused("EntityTooSmall", 400, data=b"")
    refused("EntityTooLarge", 400, data=body(9_000_001))
    refused("AccessDenied", expires=-5)
    refused("AccessDenied", change={"key": "other"})
    refused("AccessDenied", change={"x-amz-meta-new": "x"})
    refused("AccessDenied", change={"x-amz-meta-color": "red"})
    refused("SignatureDoesNotMatch", change={"policy": base64.b64encode(b'{"conditions":[]}').decode()})
    signature = {"s3": "signature", "s3v4": "x-amz-signature"}[version]
    refused("SignatureDoesNotMatch", change={signature: "00" * 32})
    assert s3.list_objects_v2(Bucket=bucket)["Contents"] == before
    there = {"success_action_redirect": "http://127.0.0.1:1/done"}
    form = s3.generate_presigned_post(bucket, "k", Fields=there, Conditions=[there])
    answer = requests.post(form["url"], data=form["fields"], files={"file": b"x"}, allow_redirects=False)
    assert answer.status_code == 303 and answer.headers["location"].startswith("http://127.0.0.1:1/done?bucket=")
    form = s3.generate_presigned_post(bucket, "k")
    assert requests.post(form["url"], data=form["fields"], files={"file": b"x"}).status_code == 204
    assert "<Code>AccessDenied</Code>" in requests.post(form["url"], data={"key": "k"}, files={"file": b"x"}).text


def test_a_completion_that_races_a_deletion_or_a_write_succeeds(s3, bucket):
    def other(number):
        if number % 2:
            s3.delete_object(Bucket=bucket, Key="k")
        else:
            s3.put_object(Bucket=bucket, Key="k", Body=b"other")

    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        for number in range(60):
            upload = s3.create_multipart_upload(Bucket=bucket, Key="k")["UploadId"]
            name = dict(Bucket=bucket, Key="k", UploadId=upload)
            etag = s3.upload_part(PartNumber=1, Body=b"part", **name)["ETag"]
            rivals = [pool.submit(other, number) for _ in range(2)]
            parts = {"Parts": [{"PartNumber": 1, "ETag": etag}]}
            done = s3.complete_multipart_upload(MultipartUpload=parts, **name)
            assert done["ETag"].endswith('-1"')
            for rival in rivals:
                rival.result()
            assert code(s3.list_parts, **name) == "NoSuchUpload"
