"""Addresses, and that nothing secret is repeated."""

from pathlib import Path

import pytest

from dali_pipes.storage import RemoteFiles, is_address, place
from dali_pipes.storage.address import checked_address, parents, without_secrets

SECRET = "abcdefSECRETghij"


@pytest.mark.parametrize(
    "text", ["s3://bucket/prefix", "gs://b", "https://host:80/a", "file:///a/b", "memory://x"]
)
def test_addresses(text: str) -> None:
    assert is_address(text)
    assert place(text) == checked_address(text) == checked_address(f"{text}/") == text


@pytest.mark.parametrize("text", ["reels", "/a/b", "./s3", "s3:/bucket", "a b://c", "://x", ""])
def test_paths(text: str) -> None:
    assert not is_address(text)
    assert place(text) == Path(text)
    assert not is_address(Path("s3://bucket"))


@pytest.mark.parametrize(
    ("address", "said"),
    [
        (f"s3://AKIA:{SECRET}@bucket/a", "s3://bucket/a: has a user"),
        (f"https://host/a?sig={SECRET}", "https://host/a: has a user"),
        (f"https://host/a#{SECRET}", "https://host/a: has a user"),
        (f"https://{SECRET}@host:80/a?b", "https://host:80/a: has a user"),
        (f"https://me:p@{SECRET}@host/a", "https://host/a: has a user"),
    ],
)
def test_credentials_in_an_address_are_refused_and_not_repeated(address: str, said: str) -> None:
    for check in (checked_address, lambda address: RemoteFiles(address, "reels.json")):
        with pytest.raises(ValueError, match="credentials belong in the environment") as refusal:
            check(address)
        assert str(refusal.value).startswith(said)
        assert SECRET not in str(refusal.value)


@pytest.mark.parametrize("stop", "/?#")
def test_passwords_that_end_the_host_for_a_parser(stop: str) -> None:
    """Every other AWS secret has a slash in it."""
    with pytest.raises(ValueError, match="credentials belong in the environment") as refusal:
        checked_address(f"s3://AKIA:{SECRET}{stop}{SECRET}@bucket/prefix")
    assert SECRET not in str(refusal.value)


@pytest.mark.parametrize("address", ["https://host:443/a", "http://[::1]:80/a", "file:///a@b/c"])
def test_ports_and_odd_paths_are_no_credentials(address: str) -> None:
    assert checked_address(address) == address


def test_parents() -> None:
    assert parents("s3://bucket/a/b/") == ["s3://bucket/a", "s3://bucket"]
    assert parents("s3://bucket") == []


def test_unknown_protocols_are_refused() -> None:
    with pytest.raises(ValueError, match="nosuch://a"):
        RemoteFiles("nosuch://a/b", "reels.json")


def test_texts_lose_secrets_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("AWS_SECRET_ACCESS_KEY", "FSSPEC_S3_TOKEN", "MY_PASSWORD", "AZURE_CREDENTIAL", "A_SAS")
    for number, name in enumerate(names):
        monkeypatch.setenv(name, f"{SECRET}{number}")
        assert without_secrets(f"bad\n  key '{SECRET}{number}' here") == "bad key '***' here"
    monkeypatch.setenv("SHORT_KEY", "a")
    monkeypatch.setenv("HARMLESS", "eastern")
    assert without_secrets("a bad eastern day") == "a bad eastern day"


def test_a_secret_that_begins_with_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AA_KEY", "abcdef")
    monkeypatch.setenv("BB_KEY", SECRET)
    assert without_secrets(SECRET) == "***"


def test_texts_lose_queries_and_users_of_addresses() -> None:
    said = without_secrets(
        f"GET https://host/a?X-Amz-Signature={SECRET}&b=1 failed, 'http://u:{SECRET}@host/b?c' too?"
    )
    assert said == "GET https://host/a?*** failed, 'http://***@host/b?***' too?"
    assert without_secrets("what? see s3://b/a@b") == "what? see s3://b/a@b"


def test_a_password_with_an_at_sign() -> None:
    assert without_secrets(f"http://u:p@{SECRET}@host/b") == "http://***@host/b"
