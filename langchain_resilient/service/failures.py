"""How a call that failed is told to a client: a status, an error object, and whether to retry."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

from langchain_core.exceptions import ModelInvalidRequestError

from langchain_resilient import errors

logger = logging.getLogger("langchain_resilient.service")


class BadRequestError(ValueError):
    """A request that no model could answer.

    Attributes:
        param: The parameter that is wrong, if it is one.
        code: A word for programs.
        status: The HTTP status that says so.
    """

    def __init__(
        self, message: str, param: str | None = None, code: str | None = None, status: int = 400
    ) -> None:
        super().__init__(message)
        self.param = param
        self.code = code
        self.status = status


@dataclass(frozen=True, slots=True)
class Failure:
    """An error as OpenAI's clients read it.

    Attributes:
        status: The HTTP status.
        message: What happened; no secrets.
        kind: The error's `type`.
        code: A word for programs.
        param: The parameter that is wrong, if it is one.
        retry_after: Seconds to wait before another try; None if that is not known.
        retry: Whether the client should try again. The chain has tried everything already, so an
            SDK's own retries would multiply it.
    """

    status: int
    message: str
    kind: str = "server_error"
    code: str | None = None
    param: str | None = None
    retry_after: float | None = None
    retry: bool = False

    def as_dict(self) -> dict[str, Any]:
        """The error object."""
        return {
            "message": self.message, "type": self.kind, "param": self.param, "code": self.code
        }  # fmt: skip

    def headers(self) -> list[tuple[bytes, bytes]]:
        """The headers that tell clients whether and when to try again."""
        headers = [(b"x-should-retry", b"true" if self.retry else b"false")]
        if self.retry_after is not None:
            headers.append((b"retry-after", str(max(1, round(self.retry_after))).encode()))
        return headers


_BY_ERROR: tuple[tuple[type[Exception], int, str, str], ...] = (
    # The first that fits counts.
    (errors.DeadlineExceededError, 504, "server_error", "deadline_exceeded"),
    (errors.RateLimitedError, 429, "rate_limit_error", "rate_limit_exceeded"),
    (errors.ContextTooLongError, 400, "invalid_request_error", "context_length_exceeded"),
    (errors.ModelsNotFoundError, 404, "invalid_request_error", "model_not_found"),
    # The client's own key is another one: a 401 would say that that is wrong.
    (errors.AuthenticationFailedError, 502, "server_error", "upstream_authentication"),
    (errors.InvalidAnswersError, 502, "server_error", "no_valid_answer"),
    (errors.SpendCapError, 429, "insufficient_quota", "insufficient_quota"),
    (errors.NoTargetsError, 503, "server_error", "no_targets"),
    (errors.StreamBrokenError, 502, "server_error", "stream_broken"),
    (errors.RequestRejectedError, 400, "invalid_request_error", "request_rejected"),
    # Every target found the request wrong, though each may have had its own reason.
    (ModelInvalidRequestError, 400, "invalid_request_error", "request_rejected"),
    (errors.ResilientError, 502, "server_error", "all_targets_failed"),
)

_CLIENT_ERRORS = range(400, 500)


def failure_of(error: BaseException) -> Failure:
    """Say what an exception of a call means to the client."""
    if isinstance(error, BadRequestError):
        kind = "invalid_request_error"
        return Failure(error.status, str(error), kind, error.code, error.param)
    for known, status, kind, code in _BY_ERROR:
        if isinstance(error, known):
            return _of_call(error, status, kind, code)
    if isinstance(error, ValueError | TypeError):
        # An argument that the model refuses before anything is sent.
        brief = _one_line(_brief(error))
        logger.info("a request was refused: %s", brief)
        logger.debug("where it was refused", exc_info=error)
        return Failure(400, brief, "invalid_request_error", param=_param(error))
    logger.error("a request failed", exc_info=error)
    return Failure(500, "internal error", code="internal_error")


def _of_call(error: Any, status: int, kind: str, code: str) -> Failure:
    faults = [fault for _, fault in error.receipt.faults] if error.receipt else []
    if isinstance(error, errors.RequestRejectedError):
        told = [fault.status for fault in faults if fault.status in _CLIENT_ERRORS]
        status = told[-1] if told and told[-1] not in (401, 403) else status
    waits = [fault.retry_after for fault in faults if fault.retry_after is not None]
    wait = getattr(error, "opens_in", None) or (min(waits) if waits and status == 429 else None)  # noqa: PLR2004
    # What to do about it is advice for whoever configures the service, whose log has it.
    message, _, advice = str(error).partition("\nWhat to do: ")
    if advice:
        logger.info("a call failed: %s. What to do: %s", type(error).__name__, advice)
    return Failure(status, message, kind, code, retry_after=wait)


def _brief(error: BaseException) -> str:
    """The text of an error; of pydantic's only what is wrong, without what was given."""
    found = getattr(error, "errors", None)
    if not callable(found):
        return str(error)
    return "; ".join(
        f"{'.'.join(map(str, e['loc']))}: {e['msg'].removeprefix('Value error, ')}" for e in found()
    )


def _one_line(text: str) -> str:
    """Escape what would begin another line of the log: a client names fields as it likes."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _param(error: BaseException) -> str | None:
    """The parameter that an error of pydantic's is about; None where it says none."""
    found = getattr(error, "errors", None)
    places = [e["loc"] for e in found()] if callable(found) else []
    return str(places[0][0]) if places and places[0] else None
