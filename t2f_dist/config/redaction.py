"""What may not be written down is taken out: passwords and signatures in URLs, and values given to keys named so.

URLs with a query are legitimate to read from (a presigned URL is how some stores share a folder), so they are not
refused; but a configuration goes into every checkpoint, snapshot and log, and messages go where anyone may read them.
"""

from __future__ import annotations

import re
from typing import Any

MARK = "redacted"  # t2f_dist.storage.url refuses a place that carries it

_USER = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://)[^\s/?#'\"]*@")
# Only of the web: in keys of s3, gs and hf ? and # are letters like any other.
_QUERY = re.compile(r"(https?://[^\s?#'\"]*)[?#][^\s'\"]*", re.IGNORECASE)
# `wandb.api_key=...`, `AWS_SECRET_ACCESS_KEY: ...`, whoever wrote it and wherever it was put.
_NAMED = re.compile(
    r"([\w.-]*(?:api_?key|access_?key|secret|token|password|passwd|credential|signature)[\w.-]*\s*[=:]\s*)"
    r"(?:'[^']*'|\"[^\"]*\"|[^\s,;'\"}\]]+)",
    re.IGNORECASE,
)


def redacted(value: Any) -> Any:
    """A copy of a text, or of lists and mappings of texts, in which URLs have lost user, password and query."""
    if isinstance(value, str):
        return _QUERY.sub(rf"\1?{MARK}", _USER.sub(rf"\1{MARK}@", value))
    if isinstance(value, dict):
        return {key: redacted(item) for key, item in value.items()}
    return [redacted(item) for item in value] if isinstance(value, list | tuple) else value


def said(message: object) -> str:
    """A message in one line as it may be printed, logged and kept: `redacted`, and without values of secret names."""
    return _NAMED.sub(rf"\1{MARK}", redacted(" ".join(str(message).split())))
