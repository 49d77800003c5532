"""Being asked to stop: Ctrl-C, or the SIGTERM of a cluster's preemption, ends a run at its next update."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from accelerate import Accelerator


class Stop:
    """Whether this process has been asked to stop."""

    def __init__(self) -> None:
        self.asked = False

    @contextmanager
    def listening(self, say: Callable[[str], None]) -> Iterator[None]:
        """Heed SIGINT and SIGTERM. A second one does what it did before: it stops at once."""
        if threading.current_thread() is not threading.main_thread():  # Python has no handlers elsewhere
            yield
            return
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

        def hear(number: int, frame: Any) -> None:
            self.asked = True
            say("stopping after this update, with a checkpoint; once more stops at once")
            for other, handler in before.items():
                signal.signal(other, handler)

        for number in before:
            signal.signal(number, hear)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def agreed(self, accelerator: Accelerator, now: bool) -> bool:
        """Whether any process was asked. now: several processes have to come here together, so they do it seldom."""
        if accelerator.num_processes == 1:
            return self.asked
        if not now:
            return False
        import torch

        flag = torch.tensor(float(self.asked), device=accelerator.device)
        return bool(accelerator.reduce(flag, "sum"))
