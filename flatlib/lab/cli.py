"""The command ``flatlib``: a signal ends it in one line, also while its modules are imported.

What takes time to import, PyTorch above all, is imported only once signals are handled.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

STOPPED = "flatlib: stopped; the same command goes on from here"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        0 if everything asked for is there, 1 if a run failed or diverged or an archived record
        was altered, 2 for bad arguments or a package that is not installed, 128 and the signal's
        number if one stopped it, 141 if nobody reads what is printed.
    """
    with _on_signals(_leave):
        try:
            from flatlib.lab import commands
            from flatlib.lab.manifest import RecordError
        except ModuleNotFoundError as fault:
            print(
                f"flatlib: this command needs the laboratory, and {fault.name} is not installed: "
                "pip install 'flatlib-sharpness[lab]'",
                file=sys.stderr,
            )
            return 2

        options = commands.parser().parse_args(arguments)
        try:
            with _on_signals(_interrupt):
                ended = options.command(options)
                sys.stdout.flush()
                return ended
        except BrokenPipeError:  # whoever read what is printed has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 141  # what a shell makes of SIGPIPE
        except (OSError, ValueError, RecordError) as fault:
            print(f"flatlib: {fault}", file=sys.stderr)
            return 2
        except KeyboardInterrupt as stop:
            print(STOPPED, file=sys.stderr)
            return 128 + (stop.args[0] if stop.args else signal.SIGINT)


def _leave(number: int, _) -> None:
    """End at once: nothing is at work, and an exception could get lost in a module's import."""
    os.write(2, f"{STOPPED}\n".encode())
    os._exit(128 + number)


def _interrupt(number: int, _) -> None:
    raise KeyboardInterrupt(number)


@contextmanager
def _on_signals(handler: Callable) -> Iterator[None]:
    """What ends the command from outside, or a closed terminal, is handled as Ctrl-C is."""
    names = [name for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {getattr(signal, name): signal.getsignal(getattr(signal, name)) for name in names}
    here = threading.current_thread() is threading.main_thread()
    # What is ignored stays so: a closed terminal under nohup, Ctrl-C of a shell's background job.
    ours = (signal.SIG_DFL, signal.default_int_handler, _leave)
    taken = [number for number, old in before.items() if here and old in ours]
    for number in taken:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, before[number])


if __name__ == "__main__":
    sys.exit(main())
