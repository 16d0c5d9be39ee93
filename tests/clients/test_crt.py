"""The S3 API by AWS's C runtime, which cuts, chunks and checks on its own: every checksum, in headers and in trailers."""

import filecmp
import random

import pytest
from awscrt import auth, http, io, s3 as crt


@pytest.fixture(scope="module")
def client(store):
    s3 = store.endpoints["s3"]
    loops = io.EventLoopGroup(1)
    bootstrap = io.ClientBootstrap(loops, io.DefaultHostResolver(loops))
    credentials = auth.AwsCredentialsProvider.new_static(s3["access_key"], s3["secret_key"])
    return crt.S3Client(
        bootstrap=bootstrap, region=s3["region"], tls_mode=crt.S3RequestTlsMode.DISABLED, part_size=5 << 20,
        signing_config=crt.create_default_s3_signing_config(region=s3["region"], credential_provider=credentials),
    )


@pytest.mark.parametrize("place", ["TRAILER", "HEADER"])
@pytest.mark.parametrize("algorithm", ["CRC32", "CRC32C", "CRC64NVME", "SHA1", "SHA256"])
def test_what_goes_up_comes_back_with_its_checksum(store, client, s3, bucket, tmp_path, algorithm, place):
    host = store.endpoints["s3"]["url"].removeprefix("http://")
    there, back = tmp_path / "there", tmp_path / "back"
    for size in (0, 4001, 22_000_001):
        there.write_bytes(random.Random(size).randbytes(size))
        path = f"/{bucket}/k{size}"
        headers = http.HttpHeaders([("host", host), ("content-length", str(size)), ("content-type", "a/b")])
        config = crt.S3ChecksumConfig(algorithm=getattr(crt.S3ChecksumAlgorithm, algorithm),
                                      location=getattr(crt.S3ChecksumLocation, place))
        client.make_request(type=crt.S3RequestType.PUT_OBJECT, request=http.HttpRequest("PUT", path, headers),
                            send_filepath=str(there), checksum_config=config).finished_future.result(60)
        get = http.HttpRequest("GET", path, http.HttpHeaders([("host", host)]))
        client.make_request(type=crt.S3RequestType.GET_OBJECT, request=get, recv_filepath=str(back),
                            checksum_config=crt.S3ChecksumConfig(validate_response=True)).finished_future.result(60)
        assert filecmp.cmp(there, back, shallow=False)
        head = s3.head_object(Bucket=bucket, Key=f"k{size}", ChecksumMode="ENABLED")
        composite = size > 5 << 20 and algorithm != "CRC64NVME"
        assert head["ChecksumType"] == ("COMPOSITE" if composite else "FULL_OBJECT")
        assert head[f"Checksum{algorithm}"].endswith("-5") == composite
