"""One transcription request: from the uploaded file to the answer, whole or in parts."""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from sse_starlette import ServerSentEvent
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from arkasr.errors import InputError
from arkasr.serve import answers
from arkasr.serve.errors import ApiError
from arkasr.serve.metrics import Metrics
from arkasr.serve.options import Options
from arkasr.serve.speech_model import ServedSegment, SpeechModel
from arkasr.transcribe.cutting import CutRecording
from arkasr.transcribe.transcript import Transcript, join_segment_texts

Result = TypeVar("Result")


@dataclass(frozen=True)
class Job:
    """What is to be transcribed.

    Attributes:
        model: that writes.
        path: of the recording, only valid while the request is handled.
        file_name: the client's, for messages.
        options: what the client asked for.
        metrics: of the server.
    """

    model: SpeechModel
    path: Path
    file_name: str
    options: Options
    metrics: Metrics

    async def answer(self) -> Response:
        """The whole answer.

        Raises:
            ApiError: 400, the recording cannot be transcribed.
        """
        try:
            cut = await self.model.cut(self.path, self.options)
            segments = [served async for served in self._segments(cut)]
        except InputError as error:
            raise self._bad_input(error) from error
        # Of a long recording, this takes seconds, in which the server would not answer others.
        return await asyncio.to_thread(self._response, segments, answers.transcript_of(segments, cut.seconds))

    async def events(self, upload: AsyncExitStack) -> AsyncIterator[ServerSentEvent]:
        """`transcript.text.delta` for every segment, then `transcript.text.done` with the whole text.

        Args:
            upload: holds the recording; closed at the end.
        """
        async with upload, aclosing(self._events()) as events:
            async for event in events:
                yield event

    async def _events(self) -> AsyncGenerator[ServerSentEvent]:
        try:
            cut = await self.model.cut(self.path, self.options)
            segments: list[ServedSegment] = []
            described: list[dict[str, Any]] = []
            text = ""
            async with aclosing(self._segments(cut)) as served_segments:
                async for served in served_segments:
                    segments.append(served)
                    longer = join_segment_texts((text, served.segment.text))
                    if delta := longer[len(text) :]:
                        yield _event({"type": "transcript.text.delta", "delta": delta})
                    text = longer
                    if self.options.response_format == "verbose_json":
                        described.append(await asyncio.to_thread(self._described, len(described), served))
                        yield _event({"type": "transcript.text.segment"} | described[-1])
        except InputError as error:
            yield _event(self._bad_input(error).document() | {"type": "error"})
            return
        transcript = answers.transcript_of(segments, cut.seconds)
        yield await asyncio.to_thread(self._done, segments, described, transcript)

    def _response(self, segments: Sequence[ServedSegment], transcript: Transcript) -> Response:
        response_format = self.options.response_format
        if response_format == "text":
            return PlainTextResponse(transcript.text + "\n")
        if response_format in ("srt", "vtt"):
            return PlainTextResponse(answers.subtitles(transcript, response_format))
        is_verbose = response_format == "verbose_json"
        described = [self._described(number, served) for number, served in enumerate(segments)] if is_verbose else []
        return JSONResponse(self._document(segments, described, transcript))

    def _done(
        self, segments: Sequence[ServedSegment], described: Sequence[Mapping[str, Any]], transcript: Transcript
    ) -> ServerSentEvent:
        return _event({"type": "transcript.text.done"} | self._document(segments, described, transcript))

    def _described(self, number: int, served: ServedSegment) -> dict[str, Any]:
        return answers.verbose_segment(number, served, self.options.temperature, self.model.tokenizer)

    def _document(
        self, segments: Sequence[ServedSegment], described: Sequence[Mapping[str, Any]], transcript: Transcript
    ) -> dict[str, Any]:
        options = self.options
        if options.response_format == "verbose_json":
            document = answers.verbose_json(segments, described, transcript, options.language, words=options.word_times)
        else:
            document = answers.plain_json(transcript)
        if options.log_probabilities:
            document["logprobs"] = answers.log_probabilities(segments, self.model.tokenizer)
        if options.subtitles:
            document["subtitles"] = {name: answers.subtitles(transcript, name) for name in ("srt", "vtt")}
        return document

    def _segments(self, cut: CutRecording) -> AsyncGenerator[ServedSegment]:
        self.metrics.audio_seconds.labels(self.model.name).inc(cut.seconds)
        scored = self.options.log_probabilities or self.options.response_format == "verbose_json"
        return self.model.segments(self.path, cut, self.options, scored=scored)

    def _bad_input(self, error: InputError) -> ApiError:
        return ApiError(400, str(error).replace(str(self.path), self.file_name), param="file")


async def unless_client_leaves(request: Request, work: Coroutine[Any, Any, Result]) -> Result | None:
    """The result of work for a request; None if the client closes the connection, and the work is given up.

    Args:
        request: its body has been read.
        work: not started yet.
    """
    working, leaving = asyncio.create_task(work), asyncio.create_task(_disconnected(request))
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        return await working if working.done() else None
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _event(document: dict[str, Any]) -> ServerSentEvent:
    return ServerSentEvent(json.dumps(document, ensure_ascii=False), event=document["type"])
