"""An HTTP server that answers as vLLM does, with the scores of a recogniser in this process, and fails when told to."""

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
    """Counts what it is asked, and fails where it is told to.

    `faults` are used up by the next requests, one each: a status, "hang" for a while, "drop" the connection, "cut" the
    answer, or a function that changes it. Unless it is `awake`, nothing is answered, not even whether it is healthy.
    """

    def __init__(self, recognizer, *, max_logprobs=10_000, port=0):
        self.recognizer = recognizer
        self.max_logprobs = max_logprobs
        self.port = port
        self.faults = []
        self.asked = self.answered = self.busy = self.busiest = 0
        self.delay = 0.0
        self.key = None
        self.awake = threading.Event()
        self.awake.set()
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

    def answer(self, request):
        sampling = request["sampling_params"]
        if sampling["prompt_logprobs"] > self.max_logprobs:
            message = f"Requested prompt logprobs of {sampling['prompt_logprobs']}, more than {self.max_logprobs}"
            return 400, {"error": {"message": message}}
        recognizer = self.recognizer
        encoded = request["content_parts"][0]["url"].split(",")[1]
        waveform, rate = soundfile.read(io.BytesIO(base64.b64decode(encoded)), dtype="float32")
        assert rate == 16_000
        features = recognizer.features(waveform)
        place = request["token_ids"].index(recognizer.processor.audio_token_id)
        before, behind = request["token_ids"][:place], request["token_ids"][place + 1 :]
        language = next(
            name
            for name in ("English", "Chinese")
            if recognizer.prompt_parts(name)[0] == before
            and behind[: len(recognizer.prompt_parts(name)[1])] == recognizer.prompt_parts(name)[1]
        )
        transcript = torch.tensor(behind[len(recognizer.prompt_parts(language)[1]) :])
        prompts = recognizer.prompts([features], [language])
        with torch.no_grad(), self._lock:
            log_probs = forced_logits(recognizer, prompts, [transcript]).log_softmax(-1)
        length = prompts.input_ids.shape[1]
        best = log_probs.topk(sampling["prompt_logprobs"], dim=1)
        rows = []
        for place, forced in enumerate(transcript.tolist()):
            scores = {forced: log_probs[place, forced].item()}
            scores |= dict(zip(best.indices[place].tolist(), best.values[place].tolist(), strict=True))
            rows.append({str(token): {"logprob": score} for token, score in scores.items()})
        answer = {
            "prompt_logprobs": [None] * length + rows,
            "prompt_token_ids": [*prompts.input_ids[0].tolist(), *transcript.tolist()],
        }
        if "prompt_logprob_token_ids" in sampling:
            assert sampling["prompt_logprob_start"] == length - 1
            named = torch.tensor(sampling["prompt_logprob_token_ids"])
            assert len(named) == len(transcript)
            scores = log_probs.gather(1, named.clamp_min(0)).masked_fill(named < 0, -torch.inf)
            file = io.BytesIO()
            np.save(file, scores.numpy())
            answer["prompt_token_id_logprobs"] = base64.b64encode(file.getvalue()).decode()
        return 200, answer


class _Handler(BaseHTTPRequestHandler):
    scores: ScoresServer

    def do_GET(self):
        self.scores.awake.wait()
        self.send_response(200 if self.path == "/health" else 404)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self._counted():
            self.scores.awake.wait()
            fault = self.scores.faults.pop(0) if self.scores.faults else None
            if fault == "drop":
                self.close_connection = True
                return
            if fault == "hang":
                time.sleep(1.5)
            time.sleep(self.scores.delay)
            status, answer = (fault, {}) if isinstance(fault, int) else self.scores.answer(body)
            if self.scores.key is not None and self.headers["Authorization"] != f"Bearer {self.scores.key}":
                status, answer = 401, {"error": "Unauthorized"}
            encoded = json.dumps(fault(answer) if callable(fault) else answer).encode()
            self.scores.answered += status == 200
            try:
                self.send_response(status)
                self.send_header("Content-Length", str(len(encoded)))
                self.end_headers()
                self.wfile.write(encoded[: len(encoded) // 2] if fault == "cut" else encoded)
                self.close_connection = fault == "cut"
            except OSError:  # who hung up is not waiting for the answer
                self.close_connection = True

    @contextmanager
    def _counted(self):
        scores = self.scores
        scores.asked += 1
        scores.busy += 1
        scores.busiest = max(scores.busiest, scores.busy)
        yield
        scores.busy -= 1

    def log_message(self, *_):
        pass


def serving(recognizer):
    """Of a fixture: a server of a recogniser, stopped in the end."""
    recognizer.model.eval()
    server = ScoresServer(recognizer).start()
    yield server
    server.stop()
