"""A vLLM server on the CPU in processes of its own, started as a user would, and killed as a machine would."""

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
    """Serves a folder in float32 on a port of its own, the same one after every start."""

    def __init__(self, model, log, *arguments):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = log
        # What `vllm serve` runs; the CPU build's own command does not find its version.
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
        """SIGTERM, as a scheduler stops it; what it leaves behind is killed."""
        self.process.terminate()
        self.process.wait(timeout=60)
        self.kill()

    def kill(self):
        """SIGKILL for the server and every process it has started."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
