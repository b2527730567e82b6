"""A vLLM server on the CPU, in its own processes, that tests start, stop and kill."""

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress

import httpx2

SECONDS_TO_START = 240


class VllmServer:
    """Serves a folder in float32. The port stays the same after a restart."""

    def __init__(self, model, log, *arguments):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = log
        # The module behind `vllm serve`, which does not work in the CPU build.
        self.command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model)]
        self.command += ["--host", "127.0.0.1", "--port", str(self.port), "--dtype", "float32", *arguments]
        self.process = None

    def start(self):
        environment = os.environ | {
            "VLLM_CPU_KVCACHE_SPACE": "1",
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "VLLM_NO_USAGE_STATS": "1",
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
        }
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command, env=environment, stdout=log, stderr=log, start_new_session=True
            )
        return self

    def wait(self):
        deadline = time.monotonic() + SECONDS_TO_START
        while not self.healthy():
            assert self.process.poll() is None, f"the server ended: {self.log.read_text()[-2000:]}"
            assert time.monotonic() < deadline, f"the server does not start: {self.log.read_text()[-2000:]}"
            time.sleep(0.5)
        return self

    def healthy(self):
        try:
            return httpx2.get(f"{self.url}/health", timeout=2).is_success
        except httpx2.TransportError:
            return False

    def stop(self):
        """Send SIGTERM, as a scheduler does, then kill the remaining processes."""
        self.process.terminate()
        self.process.wait(timeout=60)
        self.kill()

    def kill(self):
        """Send SIGKILL to the server and all its processes."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
