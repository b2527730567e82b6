"""An HTTP server with vLLM's scoring interface around a recogniser in this process. Tests make it fail."""

import base64
import io
import json
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import soundfile
import torch

from arkasr.recognizers.scoring import forced_logits


class ScoresServer:
    """Scores requests, counts them, and fails on demand.

    Each of the next requests takes one of `faults`: a status; "hang" for a while; "drop" the connection; "cut" the
    response; or a function that changes the response. Unless `responsive` is set, no request gets a response, not even
    a health check.
    """

    def __init__(self, recognizer, *, max_logprobs=10_000, port=0):
        self.recognizer = recognizer
        self.max_logprobs = max_logprobs
        self.port = port
        self.faults = []
        self.received = self.succeeded = self.active = self.max_active = 0
        self.delay = 0.0
        self.key = None
        self.responsive = threading.Event()
        self.responsive.set()
        self._lock = threading.Lock()
        self._server = None

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def start(self):
        handler = type("Handler", (_Handler,), {"scores": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), handler)
        self._server.daemon_threads = True
        self.port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def stop(self):
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def respond(self, request):
        sampling = request["sampling_params"]
        if sampling["prompt_logprobs"] > self.max_logprobs:
            message = f"Requested prompt logprobs of {sampling['prompt_logprobs']}, more than {self.max_logprobs}"
            return 400, {"error": {"message": message}}
        recognizer = self.recognizer
        encoded = request["content_parts"][0]["url"].split(",")[1]
        waveform, rate = soundfile.read(io.BytesIO(base64.b64decode(encoded)), dtype="float32")
        assert rate == 16_000
        features = recognizer.features(waveform)
        placeholder = request["token_ids"].index(recognizer.processor.audio_token_id)
        before, after = request["token_ids"][:placeholder], request["token_ids"][placeholder + 1 :]
        language = next(
            name
            for name in ("English", "Chinese")
            if recognizer.prompt_parts(name)[0] == before
            and after[: len(recognizer.prompt_parts(name)[1])] == recognizer.prompt_parts(name)[1]
        )
        transcript = torch.tensor(after[len(recognizer.prompt_parts(language)[1]) :])
        prompts = recognizer.prompts([features], [language])
        with torch.no_grad(), self._lock:
            log_probs = forced_logits(recognizer, prompts, [transcript]).log_softmax(-1)
        length = prompts.input_ids.shape[1]
        best = log_probs.topk(sampling["prompt_logprobs"], dim=1)
        rows = []
        for position, forced in enumerate(transcript.tolist()):
            scores = {forced: log_probs[position, forced].item()}
            scores |= dict(zip(best.indices[position].tolist(), best.values[position].tolist(), strict=True))
            rows.append({str(token): {"logprob": score} for token, score in scores.items()})
        response = {
            "prompt_logprobs": [None] * length + rows,
            "prompt_token_ids": [*prompts.input_ids[0].tolist(), *transcript.tolist()],
        }
        if "prompt_logprob_token_ids" in sampling:
            assert sampling["prompt_logprob_start"] == length - 1
            ids = torch.tensor(sampling["prompt_logprob_token_ids"])
            assert len(ids) == len(transcript)
            scores = log_probs.gather(1, ids.clamp_min(0)).masked_fill(ids < 0, -torch.inf)
            file = io.BytesIO()
            np.save(file, scores.numpy())
            response["prompt_token_id_logprobs"] = base64.b64encode(file.getvalue()).decode()
        return 200, response


class _Handler(BaseHTTPRequestHandler):
    scores: ScoresServer

    def do_GET(self):
        self.scores.responsive.wait()
        self.send_response(200 if self.path == "/health" else 404)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self._counted():
            self.scores.responsive.wait()
            fault = self.scores.faults.pop(0) if self.scores.faults else None
            if fault == "drop":
                self.close_connection = True
                return
            if fault == "hang":
                time.sleep(1.5)
            time.sleep(self.scores.delay)
            status, response = (fault, {}) if isinstance(fault, int) else self.scores.respond(body)
            if self.scores.key is not None and self.headers["Authorization"] != f"Bearer {self.scores.key}":
                status, response = 401, {"error": "Unauthorized"}
            encoded = json.dumps(fault(response) if callable(fault) else response).encode()
            self.scores.succeeded += status == 200
            try:
                self.send_response(status)
                self.send_header("Content-Length", str(len(encoded)))
                self.end_headers()
                self.wfile.write(encoded[: len(encoded) // 2] if fault == "cut" else encoded)
                self.close_connection = fault == "cut"
            except OSError:  # the client has closed the connection
                self.close_connection = True

    @contextmanager
    def _counted(self):
        scores = self.scores
        scores.received += 1
        scores.active += 1
        scores.max_active = max(scores.max_active, scores.active)
        yield
        scores.active -= 1

    def log_message(self, *_):
        pass


def serving(recognizer):
    """The body of a fixture: a server around a recogniser, stopped afterwards."""
    recognizer.model.eval()
    server = ScoresServer(recognizer).start()
    yield server
    server.stop()
