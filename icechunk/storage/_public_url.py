"""Storages for the URLs that a server may redirect to: public places, read without credentials."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import parse_qs, unquote, urlsplit

from icechunk.credential_values import GcsCredentials, S3Credentials
from icechunk.errors import ErrorKind, InvalidInputError
from icechunk.object_store_config import S3Options
from icechunk.storage._backends import make_storage

if TYPE_CHECKING:
    from icechunk.storage.base import Storage


def storage_for_public_url(url: str) -> Storage:
    """Return the storage that a URL names, without credentials.

    Parameters
    ----------
    url : str
        ``s3://BUCKET/PREFIX?region=R``, ``tigris://BUCKET/PREFIX?region=R``,
        ``r2://BUCKET/PREFIX?account_id=A``, ``gs://BUCKET/PREFIX``,
        ``http+icechunk://HOST/PATH`` or ``https+icechunk://HOST/PATH``.

    Raises
    ------
    InvalidInputError
        Kind ``cannot-parse-url``; another URL, or one without the query parameter it needs. Files
        and memory of this machine are not for a server to choose.
    """
    parts = urlsplit(url)
    query = {name: values[0] for name, values in parse_qs(parts.query).items()}
    bucket, prefix = parts.netloc, unquote(parts.path).strip("/")

    def required(name: str) -> str:
        if not query.get(name):
            raise InvalidInputError(
                f"a {parts.scheme}:// URL needs a {name} query parameter",
                ErrorKind.CANNOT_PARSE_URL,
            )
        return query[name]

    nobody = S3Credentials.Anonymous()
    match parts.scheme:
        case "s3":
            options = S3Options(region=required("region"), anonymous=True)
            return make_storage("s3", options, bucket, prefix, nobody)
        case "tigris":
            options = S3Options(region=required("region"), anonymous=True)
            return make_storage(
                "tigris", options, bucket, prefix, nobody, use_weak_consistency=False
            )
        case "r2":
            account = required("account_id")
            return make_storage("r2", S3Options(anonymous=True), bucket, prefix, account, nobody)
        case "gs" | "gcs":
            return make_storage("gcs", bucket, prefix, GcsCredentials.Anonymous())
        case "http+icechunk" | "https+icechunk":
            web = parts.scheme.removesuffix("+icechunk")
            return make_storage("http", parts._replace(scheme=web).geturl())
        case _:
            raise InvalidInputError(
                f"no storage for URLs that begin with {parts.scheme}://; expected s3, tigris, r2, "
                "gs, http+icechunk or https+icechunk",
                ErrorKind.CANNOT_PARSE_URL,
            )
