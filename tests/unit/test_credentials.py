"""Credentials: what the makers choose and refuse, secrets that never show, callbacks, pickling."""

from __future__ import annotations

import pickle
from datetime import UTC, datetime, timedelta, timezone

import pytest

from icechunk.credentials import (
    AzureCredentials,
    AzureRefreshableCredential,
    AzureStaticCredentials,
    Credentials,
    GcsBearerCredential,
    GcsCredentials,
    GcsStaticCredentials,
    HttpAccess,
    LocalFileSystemAccess,
    S3Credentials,
    S3StaticCredentials,
    azure_anonymous_credentials,
    azure_credentials,
    azure_from_env_credentials,
    azure_refreshable_credentials,
    azure_static_credentials,
    containers_credentials,
    gcs_anonymous_credentials,
    gcs_credentials,
    gcs_from_env_credentials,
    gcs_refreshable_credentials,
    gcs_static_credentials,
    s3_anonymous_credentials,
    s3_credentials,
    s3_from_env_credentials,
    s3_refreshable_credentials,
    s3_static_credentials,
)
from icechunk.errors import InvalidInputError

SECRET = "TheSecretItself"
SOON = datetime(2030, 1, 2, 3, 4, 5, 6, tzinfo=UTC)


def new_s3() -> S3StaticCredentials:
    return S3StaticCredentials("AKIDXYZ", SECRET, SECRET, SOON)


def new_gcs() -> GcsBearerCredential:
    return GcsBearerCredential(SECRET, expires_after=SOON)


def new_azure() -> AzureRefreshableCredential.SasToken:
    return AzureRefreshableCredential.SasToken(SECRET, SOON)


def no_credential() -> int:
    return 5


EVERY_CREDENTIAL = [
    new_s3(),
    s3_credentials(access_key_id="AKIDXYZ", secret_access_key=SECRET, session_token=SECRET),
    s3_refreshable_credentials(new_s3, scatter_initial_credentials=True),
    s3_from_env_credentials(),
    s3_anonymous_credentials(),
    new_gcs(),
    gcs_credentials(service_account_key=SECRET),
    gcs_credentials(service_account_file="/path"),
    gcs_credentials(application_credentials="/path"),
    gcs_credentials(bearer_token=SECRET),
    gcs_refreshable_credentials(new_gcs, scatter_initial_credentials=True),
    gcs_from_env_credentials(),
    gcs_anonymous_credentials(),
    new_azure(),
    AzureRefreshableCredential.AccessKey(SECRET, SOON),
    AzureRefreshableCredential.BearerToken(SECRET),
    azure_credentials(access_key=SECRET),
    azure_credentials(sas_token=SECRET),
    azure_credentials(bearer_token=SECRET),
    azure_refreshable_credentials(new_azure, scatter_initial_credentials=True),
    azure_from_env_credentials(),
    azure_anonymous_credentials(),
    Credentials.S3(s3_static_credentials(access_key_id="AKIDXYZ", secret_access_key=SECRET)),
    Credentials.Gcs(gcs_credentials(bearer_token=SECRET)),
    Credentials.Azure(azure_credentials(access_key=SECRET)),
    LocalFileSystemAccess,
    HttpAccess,
]


@pytest.mark.parametrize("credential", EVERY_CREDENTIAL, ids=lambda c: type(c).__qualname__)
def test_secrets_never_show_and_values_pickle(credential):
    texts = [repr(credential), str(credential), f"{credential}", ascii(credential)]
    if hasattr(credential, "_repr_html_"):
        texts.append(credential._repr_html_())
    assert not any(SECRET in text for text in texts)
    assert "icechunk.credentials." in texts[0]
    assert pickle.loads(pickle.dumps(credential)) == credential
    assert credential


def test_static_s3_shows_as_officially():
    assert repr(new_s3()) == (
        "<icechunk.credentials.S3StaticCredentials>\n"
        "access_key_id: AKID****\n"
        "secret_access_key: ****\n"
        "session_token: ****\n"
        "expires_after: datetime.datetime(2030,1,2,3,4,5,6, tzinfo=datetime.timezone.utc)\n"
    )


def test_static_s3_can_be_changed_and_compared():
    credentials = new_s3()
    credentials.session_token = None
    assert credentials == S3StaticCredentials("AKIDXYZ", SECRET, None, SOON)
    assert credentials != new_s3()


@pytest.mark.parametrize(
    "make",
    [
        lambda: S3StaticCredentials(1, SECRET),
        lambda: S3StaticCredentials("a", None),
        lambda: S3StaticCredentials("a", SECRET, 5),
        lambda: S3StaticCredentials("a", SECRET, None, "2030"),
        lambda: S3StaticCredentials("a", SECRET, None, datetime(2030, 1, 1)),
        lambda: GcsBearerCredential(None),
        lambda: GcsBearerCredential(SECRET, expires_after=datetime(2030, 1, 1)),
        lambda: AzureRefreshableCredential.AccessKey(5),
        lambda: AzureRefreshableCredential.SasToken(SECRET, datetime(2030, 1, 1)),
        lambda: AzureStaticCredentials.AccessKey(5),
        lambda: GcsStaticCredentials.ServiceAccount(5),
        lambda: S3Credentials.Static("x"),
        lambda: GcsCredentials.Static("x"),
        lambda: AzureCredentials.Static("x"),
        lambda: Credentials.S3(new_s3()),
        lambda: Credentials.Gcs(s3_from_env_credentials()),
        lambda: Credentials.Azure(s3_from_env_credentials()),
        S3Credentials,
        Credentials,
    ],
)
def test_wrong_types(make):
    with pytest.raises(TypeError) as caught:
        make()
    assert SECRET not in str(caught.value)


def test_times_are_kept_in_utc():
    east = timezone(timedelta(hours=5))
    made = S3StaticCredentials("a", "b", None, datetime(2030, 1, 1, 5, tzinfo=east))
    assert made.expires_after == datetime(2030, 1, 1, tzinfo=UTC)
    assert made.expires_after.tzinfo is UTC
    assert GcsBearerCredential("a", expires_after=SOON).expires_after == SOON


def test_cases_are_instances_of_their_union_and_hold_their_content():
    static = s3_credentials(access_key_id="a", secret_access_key="b")
    assert isinstance(static, S3Credentials)
    assert not isinstance(static, GcsCredentials)
    assert (static._0, static[0], len(static)) == (
        S3StaticCredentials("a", "b"),
        S3StaticCredentials("a", "b"),
        1,
    )
    match static:
        case S3Credentials.Static(S3StaticCredentials(access_key_id=key)):
            assert key == "a"


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (s3_credentials(), S3Credentials.FromEnv()),
        (s3_credentials(from_env=True), S3Credentials.FromEnv()),
        (s3_credentials(anonymous=True), S3Credentials.Anonymous()),
        (s3_credentials(anonymous=False, from_env=False), S3Credentials.FromEnv()),
        (gcs_credentials(), GcsCredentials.FromEnv()),
        (gcs_credentials(anonymous=True), GcsCredentials.Anonymous()),
        (
            gcs_credentials(service_account_file="f"),
            GcsCredentials.Static(GcsStaticCredentials.ServiceAccount("f")),
        ),
        (
            gcs_credentials(service_account_key="k"),
            GcsCredentials.Static(GcsStaticCredentials.ServiceAccountKey("k")),
        ),
        (
            gcs_credentials(application_credentials="a"),
            GcsCredentials.Static(GcsStaticCredentials.ApplicationCredentials("a")),
        ),
        (
            gcs_credentials(bearer_token="b"),
            GcsCredentials.Static(GcsStaticCredentials.BearerToken("b")),
        ),
        (azure_credentials(), AzureCredentials.FromEnv()),
        (azure_credentials(anonymous=True), AzureCredentials.Anonymous()),
        (
            azure_credentials(access_key="k"),
            AzureCredentials.Static(AzureStaticCredentials.AccessKey("k")),
        ),
        (
            azure_credentials(sas_token="s"),
            AzureCredentials.Static(AzureStaticCredentials.SasToken("s")),
        ),
        (azure_static_credentials(bearer_token="b"), AzureStaticCredentials.BearerToken("b")),
    ],
)
def test_makers_choose_the_case(made, expected):
    assert made == expected


@pytest.mark.parametrize(
    ("maker", "arguments"),
    [
        (s3_credentials, {"anonymous": True, "from_env": True}),
        (s3_credentials, {"access_key_id": SECRET}),
        (s3_credentials, {"secret_access_key": SECRET}),
        (s3_credentials, {"session_token": SECRET}),
        (s3_credentials, {"expires_after": SOON}),
        (s3_credentials, {"access_key_id": "a", "secret_access_key": SECRET, "from_env": True}),
        (s3_credentials, {"get_credentials": new_s3, "anonymous": True}),
        (s3_credentials, {"get_credentials": new_s3, "access_key_id": SECRET}),
        (gcs_credentials, {"service_account_file": "f", "bearer_token": SECRET}),
        (gcs_credentials, {"service_account_file": "f", "from_env": True}),
        (gcs_credentials, {"get_credentials": new_gcs, "bearer_token": SECRET}),
        (gcs_static_credentials, {}),
        (gcs_static_credentials, {"service_account_key": SECRET, "bearer_token": SECRET}),
        (azure_credentials, {"access_key": SECRET, "sas_token": SECRET}),
        (azure_credentials, {"access_key": SECRET, "from_env": True}),
        (azure_credentials, {"access_key": SECRET, "get_credentials": new_azure}),
        (azure_static_credentials, {}),
    ],
)
def test_contradictory_or_incomplete_arguments(maker, arguments):
    with pytest.raises(InvalidInputError) as caught:
        maker(**arguments)
    assert caught.value.kind == "invalid-credentials"
    assert isinstance(caught.value, ValueError)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("maker", "callback"),
    [
        (s3_refreshable_credentials, new_s3),
        (gcs_refreshable_credentials, new_gcs),
        (azure_refreshable_credentials, new_azure),
    ],
)
def test_callback_is_asked_now_only_when_scattered(maker, callback):
    later = maker(callback)
    assert later.current is None
    assert later.fetch() == callback()
    assert pickle.loads(later.pickled_function) is callback
    assert maker(callback, scatter_initial_credentials=True).current == callback()
    with pytest.raises(InvalidInputError, match="must return"):
        maker(no_credential).fetch()
    with pytest.raises(InvalidInputError, match="top level of a module"):
        maker(lambda: None)


def test_general_makers_take_a_callback():
    assert s3_credentials(get_credentials=new_s3).fetch() == new_s3()
    assert gcs_credentials(get_credentials=new_gcs).fetch() == new_gcs()
    scattered = azure_credentials(get_credentials=new_azure, scatter_initial_credentials=True)
    assert scattered.current == new_azure()


def test_errors_of_a_callback_come_through():
    broken = S3Credentials.Refreshable(pickle.dumps(no_credential), None)
    with pytest.raises(InvalidInputError, match="S3StaticCredentials, not int"):
        broken.fetch()


def test_containers_credentials():
    s3, gcs = s3_credentials(anonymous=True), gcs_credentials(anonymous=True)
    azure = azure_credentials(from_env=True)
    given = {
        "s3://a/": s3,
        "gs://b/": gcs,
        "az://c/": azure,
        "file:///d/": LocalFileSystemAccess,
        "http://e/": Credentials.HttpAccess(),
        "s3://f/": Credentials.S3(s3),
        "s3://g/": None,
    }
    assert containers_credentials(given) == {
        **given,
        "s3://a/": Credentials.S3(s3),
        "gs://b/": Credentials.Gcs(gcs),
        "az://c/": Credentials.Azure(azure),
    }
    assert containers_credentials(named=s3) == {"named": Credentials.S3(s3)}
    assert containers_credentials({}) == containers_credentials() == {}


@pytest.mark.parametrize("given", [5, new_s3(), "key", S3Credentials.FromEnv])
def test_containers_credentials_refuses_other_things(given):
    with pytest.raises(InvalidInputError, match="s3://a/"):
        containers_credentials({"s3://a/": given})
