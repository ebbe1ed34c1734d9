"""What a request is refused with: a status of HTTP and an error object of OpenAI's API."""

from collections.abc import Mapping
from typing import Any

from lwm.errors import LWMError

_TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}


class RequestError(LWMError):
    """A request that is refused or failed.

    Args:
        status: of HTTP, 400 to 599.
        given: what was wrong, in one line, without the request's content.
        expected: what would have been right.
        remedy: what to do about it.
        param: name of the field at fault.
        code: a short name that programs can compare, for example ``"context_length_exceeded"``.
        headers: more headers of the answer, for example ``Retry-After`` (s).
    """

    def __init__(
        self,
        status: int,
        given: str,
        expected: str = "",
        remedy: str = "",
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(given, expected, remedy)
        self.status, self.param, self.code, self.headers = status, param, code, dict(headers or {})

    def body(self) -> dict[str, Any]:
        """``{"error": {...}}`` as OpenAI's API sends it."""
        return error_body(self.status, str(self), self.param, self.code)


def error_body(status: int, message: str, param: str | None = None, code: str | None = None) -> dict[str, Any]:
    """OpenAI's error object; the type follows from the status."""
    kind = _TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def bad(
    given: str, expected: str = "", remedy: str = "", *, param: str | None = None, code: str | None = None
) -> RequestError:
    """The 400 that most refusals are."""
    return RequestError(400, given, expected, remedy, param=param, code=code)
