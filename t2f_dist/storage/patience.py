"""Calls that may fail and pass: made again within bounds, and what is raised where that is of no use or no more."""

import errno
import random
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from t2f_dist.storage import url

T = TypeVar("T")

_PASSING_STATUS = (408, 425, 429, 500, 502, 503, 504, 507, 509, 520, 521, 522, 523, 524, 529)
_HUB_BUSY = (409, 412)  # of the Hugging Face Hub, where another commit came first
_FINAL_ERRNO = (errno.EINVAL, errno.ENOSYS, errno.EPERM, errno.ENAMETOOLONG, errno.EMSGSIZE, errno.EREMCHG)
_FINAL_ERRNO += (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.ENOTEMPTY)
_LIBRARIES = ("aiobotocore", "aiohttp", "asyncio", "botocore", "fsspec", "gcsfs", "google", "hf_xet", "httpcore")
_LIBRARIES += ("httpcore2", "httpx", "httpx2", "huggingface_hub", "requests", "s3fs", "urllib3")
_CREDENTIALS = {"s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY", "gs": "GOOGLE_APPLICATION_CREDENTIALS"}
_CREDENTIALS |= {"hf": "HF_TOKEN", "http": "~/.netrc or the URL", "https": "~/.netrc or the URL"}


@dataclass(frozen=True)
class Patience:
    """How long a call may take: `tries` times `seconds` of the bytes that it moves, and the waits between.

    Attributes:
        tries: of one call, the first included.
        wait_seconds: before the second try; each further wait is twice as long, and each is shortened at random.
        connect_seconds: until a connection stands.
        read_seconds: until the next bytes come.
        slowest_bytes_per_second: what moves more slowly is given up.
        unknown_bytes: that a call is given the time for which does not know how many it moves.
    """

    tries: int = 5
    wait_seconds: float = 0.5
    connect_seconds: float = 10.0
    read_seconds: float = 30.0
    slowest_bytes_per_second: int = 1 << 16
    unknown_bytes: int = 1 << 30

    def seconds(self, num_bytes: int | None) -> float:
        """How long one try that moves that many bytes may take; None or -1 where the number is not known."""
        if num_bytes is None or num_bytes < 0:
            num_bytes = self.unknown_bytes
        return self.connect_seconds + self.read_seconds + num_bytes / self.slowest_bytes_per_second


class Unreachable(OSError):
    """A place cannot be asked, so that nothing is known of what is there: of no file, and of no fault in one."""


class Denied(Unreachable, PermissionError):
    """Access is denied, or there are no credentials."""


class Beyond(OSError):
    """A part of a file was asked for that begins behind its end."""


def call(place: str, patience: Patience, action: Callable[[], T]) -> T:
    """What an action gives, tried again while its error is one that may pass.

    Raises:
        FileNotFoundError, Denied, ValueError, Unreachable: at once, where trying again is of no use; Unreachable after
            the last try. One line, which names the place without its secrets, and the tries.
    """
    reason = ""
    for attempt in range(patience.tries):
        if attempt:
            time.sleep(patience.wait_seconds * 2 ** (attempt - 1) * random.uniform(0.5, 1.0))
        try:
            return action()
        except Exception as error:
            final = judged(error, place)
            if final is error:
                raise
            if final is not None:
                raise final from None  # what is below may hold the whole URL
            reason = described(error)
    raise Unreachable(f"{url.shown(place)}: given up after {patience.tries} tries: {reason}")


def judged(error: Exception, place: str) -> Exception | None:
    """What to raise at once for an error of a call; None where it may pass. Itself, if it is none of storage's."""
    where = url.shown(place)
    cause = error.__cause__
    if isinstance(error, FileNotFoundError) and isinstance(cause, Exception):
        return judged(cause, place)  # fsspec says so of whatever befell a web server
    code = status(error)
    if code in (404, 410) or (code is None and isinstance(error, FileNotFoundError)):
        bucket = f" ({described(error)})" if "bucket" in str(error).lower() else ""
        return FileNotFoundError(f"no such file: {where}{bucket}")
    if code in (401, 403) or isinstance(error, PermissionError) or "Credentials" in type(error).__name__:
        named = _CREDENTIALS.get(url.scheme(place), "the environment")
        return Denied(f"{where}: access denied ({described(error)}); credentials are taken from {named}")
    if code == 416:
        return Beyond(f"{where}: {described(error)}")
    if code is not None:
        passes = code in _PASSING_STATUS or (code in _HUB_BUSY and url.scheme(place) == "hf")
        return None if passes else Unreachable(f"{where}: {described(error)}")
    if isinstance(error, IsADirectoryError | NotADirectoryError | FileExistsError):
        return Unreachable(f"{where}: {described(error)}")
    if isinstance(error, OSError):
        return Unreachable(f"{where}: {described(error)}") if error.errno in _FINAL_ERRNO else None
    if type(error).__name__ in ("ParamValidationError", "InvalidURL", "HFValidationError", "NonHttpUrlClientError"):
        return ValueError(f"{where}: {described(error)}")
    return None if type(error).__module__.partition(".")[0] in _LIBRARIES else error


def described(error: Exception) -> str:
    """An error in a line, its URLs without their secrets."""
    text = " ".join(str(error).split()) or ("no answer in time" if isinstance(error, TimeoutError) else "")
    text = re.sub(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s'\"]+", lambda match: url.shown(match[0]), text)
    if isinstance(error, OSError) and text:  # its class says nothing that is not in the text
        return text[:300]
    return f"{type(error).__name__}: {text}"[:300] if text else type(error).__name__


def status(error: BaseException) -> int | None:
    """The HTTP status that an error carries, however its library keeps it; None where it carries none."""
    kept = vars(error)
    for value in (kept.get("status"), kept.get("code")):
        if isinstance(value, int | str) and str(value).isdigit() and 100 <= int(value) < 600:
            return int(value)
    response = kept.get("response")
    if isinstance(response, dict):  # botocore
        value = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        return value if isinstance(value, int) else None
    if response is not None and isinstance(response.status_code, int):  # requests, httpx
        return response.status_code
    return status(error.__cause__) if error.__cause__ is not None else None
