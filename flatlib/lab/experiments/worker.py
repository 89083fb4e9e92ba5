"""What a worker process does before its first run."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import threading

from tqdm.auto import tqdm


def leave_with_parent() -> None:
    """End this process when the one that started it is gone, even in the midst of a step.

    Records are whole at every instant, so nothing is lost. A process that is stopped also leaves
    no semaphore of a progress bar behind, as its bars are locked between threads alone.
    """
    tqdm.set_lock(threading.RLock())
    parent = multiprocessing.parent_process()
    threading.Thread(target=_wait_for_the_end_of, args=(parent.sentinel,), daemon=True).start()


def _wait_for_the_end_of(sentinel: int) -> None:
    multiprocessing.connection.wait([sentinel])
    os._exit(1)  # without a word, for whoever read the errors may be gone, too
