"""The transcription server: the OpenAI interface, requests batched together, and the browser page."""
