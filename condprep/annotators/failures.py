"""What an exception of an annotator means: the picture's fault, the machine's, or the program's.

An annotator that cannot use a picture says so by `Rejected`, which is a reject however often it comes. Any other exception is a
surprise, and could have any cause. So the picture is tried once more, and where that fails, too, a control: a picture on which
the annotator has worked. Only where the control goes through it is the picture.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from condprep.errors import CondprepError, PassingFault, ProgramFault, Rejected
from condprep.runtime.retry import as_fault, is_passing, lacks_memory, retried

T = TypeVar("T")
Sleep = Callable[[float], None]

# How CUDA's libraries begin what they say; after most of it the device is of no use to this process.
_DEVICE = (
    *("cuda error", "cublas error", "cublas_status", "cudnn error", "cudnn_status", "cusolver error", "nccl error"),
    *("hip error", "device-side assert", "mps backend", "nvrtc", "unspecified launch failure", "illegal memory access"),
)


def is_about_more(error: BaseException) -> bool:
    """Whether it is about more than pictures: trying them in halves would tell nothing."""
    if isinstance(error, CondprepError):
        return not isinstance(error, Rejected)
    return isinstance(error, SystemExit) or (_is_device(error) and not lacks_memory(error))


def as_program_fault(name: str, error: BaseException) -> BaseException:
    """What is raised for an error that is about more than pictures. name: of the annotator."""
    if isinstance(error, CondprepError):
        return error
    if isinstance(error, SystemExit):  # code of others must not end a build as if it were done
        return ProgramFault(f"{name} wanted to end the program (SystemExit {error.code})")
    return ProgramFault(f"{name} cannot go on: {in_short(error)}. {AS_IT_WAS}")


def judge(name: str, error: BaseException, again: Callable[[], T], control: Callable[[], object], sleep: Sleep) -> T:
    """What comes of one picture on which the annotator `name` has raised `error`.

    again: tries the picture once more; control: another one, on which it should work. Raises Rejected where the fault is
    the picture's, PassingFault where the machine lacks something, ProgramFault where it is the device or the annotator.
    """
    if isinstance(error, Rejected):
        raise error
    if is_about_more(error):
        raise as_program_fault(name, error) from error
    try:
        return retried(again, name, sleep=sleep) if is_passing(error) else again()
    except PassingFault as fault:
        if _is_device(error):  # nobody else's memory: the picture is too large for the device
            raise as_program_fault(name, error) from error
        raise fault from error
    except Rejected:
        raise
    except (Exception, SystemExit) as repeated:
        if is_about_more(repeated):
            raise as_program_fault(name, repeated) from repeated
        if is_passing(repeated):
            return judge(name, repeated, again, control, sleep)
        _check(name, repeated, control)
        raise Rejected("annotate", f"{name} failed: {in_short(repeated)}", code="annotator-failed") from repeated


def _check(name: str, error: BaseException, control: Callable[[], object]) -> None:
    """Raises ProgramFault where the annotator does not work on the control either."""
    try:
        control()
    except Rejected:  # it works, and says so
        return
    except (Exception, SystemExit) as other:
        if is_about_more(other):
            raise as_program_fault(name, other) from other
        raise ProgramFault(
            f"{name} fails on a picture, and on another one that should do: {in_short(error)}. {AS_IT_WAS}"
        ) from error


@contextmanager
def device_faults(name: str) -> Iterator[None]:
    """What goes wrong inside, where no picture is looked at, is the device's: it shows when one waits for it."""
    try:
        yield
    except MemoryError as error:
        raise as_fault(error, name) from error
    except RuntimeError as error:
        raise as_program_fault(name, error) from error


def in_short(error: BaseException) -> str:
    """Its type and its first line."""
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0][:200] if text else 'no message'}"


def _is_device(error: BaseException) -> bool:
    text = f"{type(error).__name__} {error}".lower()
    return type(error).__name__ == "AcceleratorError" or any(
        words in text for words in (*_DEVICE, "cuda out of memory")
    )


AS_IT_WAS = "Nothing further of the shards under way is kept; once the cause is mended, the same command goes on"
