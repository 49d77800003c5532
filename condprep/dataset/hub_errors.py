"""What the Hugging Face Hub answers when it refuses, told apart: a mistake of the caller, or something that passes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from condprep.errors import CondprepError, PassingFault, TargetFault, UsageError
from condprep.runtime.retry import ATTEMPTS, GOES_ON

PASSING = frozenset({408, 412, 425, 429, 500, 502, 503, 504})  # 412: somebody else committed meanwhile
_LOST = frozenset(
    {"TransportError", "RequestException", "ConnectionError", "TimeoutError"}
)  # of httpx, requests, Python


@contextmanager
def hub_errors(name: str) -> Iterator[None]:
    """Raises UsageError, TargetFault or PassingFault, in words, where the Hub refuses what is asked of NAME."""
    try:
        yield
    except CondprepError:
        raise
    except Exception as error:
        told = _told(error, name)
        if told is None:
            raise
        raise told from error


def _told(error: BaseException, name: str) -> CondprepError | None:
    """None where the Hub has nothing to do with it."""
    for cause in _causes(error):
        status = getattr(getattr(cause, "response", None), "status_code", None)
        if isinstance(status, int):
            return _refused(status, cause, name)
        if any(kind.__name__ in _LOST for kind in type(cause).__mro__):
            return PassingFault(
                f"the Hub cannot be reached for {name}: {_said(cause)}, after {ATTEMPTS} attempts. {GOES_ON}"
            )
    return None


def _refused(status: int, error: BaseException, name: str) -> CondprepError:
    said = _said(error)
    if status in PASSING:
        return PassingFault(f"the Hub answers {status} for {name}: {said}, after {ATTEMPTS} attempts. {GOES_ON}")
    if status == 401:
        return UsageError(
            f"the Hub does not accept this login for {name}; run `hf auth login` again, or renew HF_TOKEN"
        )
    if status == 403:
        return UsageError(f"this login may not write {name} ({said}); use a token with write permission for its owner")
    if status == 404:
        return UsageError(f"{name} is not on the Hub, or this login may not see it; check the name and the token")
    return TargetFault(f"the Hub refuses {name} with {status}: {said}. {GOES_ON}")


def _said(error: BaseException) -> str:
    """The Hub's own words, one line."""
    words = getattr(error, "server_message", None) or str(error) or type(error).__name__
    return str(words).strip().splitlines()[0][:300]


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__
