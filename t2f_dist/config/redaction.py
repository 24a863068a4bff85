"""What may not be written down is taken out: passwords and signatures in URLs, and values given to keys named so.

URLs with a query are legitimate to read from (a presigned URL is how some stores share a folder), so they are not
refused; but a configuration goes into every checkpoint, snapshot and log, and messages go where anyone may read them.
"""

from __future__ import annotations

import re
from typing import Any

MARK = "redacted"  # t2f_dist.storage.url refuses a place that carries it

# To the last @ where what follows the first / may still be a password's: user:pass/word@host.
_USER = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://)(?:[^\s/?#'\":@]*:(?!\d+/)[^\s'\"]*|[^\s/?#'\"]*)@")
# Only of the web: in keys of s3, gs and hf ? and # are letters like any other.
_QUERY = re.compile(r"(https?://[^\s?#'\"]*)[?#][^\s'\"]*", re.IGNORECASE)
_NAME = (
    r"(?:api[_-]?key|access[_-]?key|account[_-]?key|private[_-]?key|wandb[_-]?key|secret|token|password|passwd"
    r"|credential|signature)"
)
_VALUE = r"(?:'[^']*'|\"[^\"]*\"|[^\s,;'\"}\]]+)"
# `wandb.api_key=...`, `AWS_SECRET_ACCESS_KEY: ...`, `{'password': '...'}`, whoever wrote it and wherever it was put.
_NAMED = re.compile(rf"([\w.-]*{_NAME}[\w.-]*['\"]?\s*[=:]\s*){_VALUE}", re.IGNORECASE)
# `--token ...`, and `HF_TOKEN ...` as variables are written; not "4 tokens" or "the token is".
_GIVEN = re.compile(rf"((?:--[\w-]*{_NAME}|\b[A-Z0-9_]*_(?:TOKEN|KEY|SECRET|PASSWORD))\s+)(?![=:]){_VALUE}")
_HEADER = re.compile(
    r"(authorization['\"]?\s*[=:]\s*['\"]?(?:(?:bearer|basic|token)\s+)?)[^\s,;'\"}\]]+", re.IGNORECASE
)
_BEARER = re.compile(r"(\bBearer\s+)[A-Za-z0-9._~+/=-]{8,}")


def redacted(value: Any) -> Any:
    """A copy of a text, or of lists and mappings of texts, in which URLs have lost user, password and query."""
    if isinstance(value, str):
        return _QUERY.sub(rf"\1?{MARK}", _USER.sub(rf"\1{MARK}@", value))
    if isinstance(value, dict):
        return {key: redacted(item) for key, item in value.items()}
    return [redacted(item) for item in value] if isinstance(value, list | tuple) else value


def without_secrets(text: str) -> str:
    """`redacted`, and without values of secret names; as it stands else."""
    text = redacted(text)
    for pattern in (_HEADER, _BEARER, _NAMED, _GIVEN):
        text = pattern.sub(rf"\1{MARK}", text)
    return text


def said(message: object) -> str:
    """A message in one line as it may be printed, logged and kept."""
    return without_secrets(" ".join(str(message).split()))
