"""Kernels that have a chapter's libraries from the start.

Each chapter imports the same libraries, which takes some five seconds of a processor: longer than
many a chapter computes. A server imports them once, and each kernel is a fresh copy of the server,
in which no chapter has run. The server knows nothing of flatlib, which every kernel imports itself.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import uuid
from multiprocessing import get_context, parent_process
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from jupyter_client import AsyncKernelManager
from jupyter_client.provisioning import LocalProvisioner

LIBRARIES = (
    "ipykernel.ipkernel",
    "ipykernel.kernelapp",
    "matplotlib.backends.backend_svg",
    "matplotlib.figure",
    "pandas",
    "scipy.stats",
    "seaborn",
    "sklearn.datasets",
    "torch",
    "torch._dynamo",  # of the first torch.func.jacrev, and in part of the first torch.autograd.grad
)
LAUNCHER = "ipykernel_launcher"  # what a kernel's command runs; its arguments follow
INLINE = "module://matplotlib_inline.backend_inline"  # where the environment names no backend


def import_once(libraries: tuple[str, ...] = LIBRARIES) -> None:
    """Have this process's server, which starts with its first kernel, import libraries."""
    get_context("forkserver").set_forkserver_preload(list(libraries))


def end_with_parent() -> None:
    """From now on this process ends when the one that started it has, however that happened."""

    def wait() -> None:
        parent_process().join()
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=wait, daemon=True).start()


def _serve(arguments: list[str], environment: dict[str, str], folder: str) -> None:
    """Be a kernel, as ``python -m ipykernel_launcher`` in that environment and folder is."""
    import matplotlib
    from ipykernel.kernelapp import launch_new_instance

    os.setsid()  # what interrupts the build from a terminal reaches its kernels through the build
    end_with_parent()
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    tools = str(Path(__file__).parent)
    own = [path for path in environment.get("PYTHONPATH", "").split(os.pathsep) if path]
    sys.path[:] = own + [path for path in sys.path if path != tools and path not in own]
    # A parent by the number 1 is never looked for; without one a kernel greets a terminal.
    sys.argv = [LAUNCHER, "--IPKernelApp.parent_handle=1", *arguments]
    matplotlib.rcParams["backend"] = os.environ.setdefault("MPLBACKEND", INLINE)
    launch_new_instance()


class _Forked:
    """A server's child with the methods of `subprocess.Popen` that a provisioner calls."""

    stdin = stdout = stderr = None

    def __init__(self, process: ForkServerProcess):
        self.process, self.pid = process, process.pid

    def poll(self) -> int | None:
        return self.process.exitcode

    def wait(self) -> int | None:
        self.process.join()
        return self.process.exitcode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)


class _Provisioner(LocalProvisioner):
    """Starts a kernel as a copy of the server."""

    async def launch_kernel(self, cmd: list[str], **kwargs) -> dict:
        context = get_context("forkserver")
        self.cwd = kwargs.get("cwd", os.getcwd())
        arguments = cmd[cmd.index(LAUNCHER) + 1 :]
        process = context.Process(target=_serve, args=(arguments, kwargs["env"], str(self.cwd)))
        process.start()
        self.process, self.pid = _Forked(process), process.pid
        return self.connection_info


class KernelManager(AsyncKernelManager):
    """Manages a Python kernel that is a copy of the server."""

    async def _async_pre_start_kernel(self, **kwargs):
        if self.provisioner is None:
            self.kernel_id = str(uuid.uuid4())
            self.provisioner = _Provisioner(
                kernel_id=self.kernel_id, kernel_spec=self.kernel_spec, parent=self
            )
        return await super()._async_pre_start_kernel(**kwargs)
