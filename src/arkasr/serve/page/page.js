"use strict";

const find = id => document.getElementById(id);
const form = find("form"), drop = find("drop"), file = find("file"), record = find("record");
const status = find("status"), error = find("error"), player = find("player"), segments = find("segments");
const UNSURE = 0.5;
let running = null;
let links = [];

function headers() {
  const key = form.elements.key.value;
  return key ? { Authorization: `Bearer ${key}` } : {};
}

async function failure(response) {
  find("key").hidden &&= response.status !== 401;
  const body = await response.json().catch(() => null);
  return new Error(body?.error?.message ?? `The server answered with status ${response.status}.`);
}

async function loadModels() {
  const response = await fetch("v1/models", { headers: headers() });
  if (!response.ok) throw await failure(response);
  const { data } = await response.json();
  form.elements.model.replaceChildren(...data.map(model => new Option(model.id)));
  error.textContent = "";
}

async function loadLanguages() {
  const response = await fetch("languages.json");
  if (!response.ok) throw await failure(response);
  find("languages").replaceChildren(...(await response.json()).map(name => new Option(name)));
}

// Events of a response as they come: objects of OpenAI's transcription stream.
async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    text = (text + value).replaceAll("\r\n", "\n");
    const parts = text.split("\n\n");
    text = parts.pop();
    for (const part of parts) {
      const data = part.split("\n").filter(line => line.startsWith("data:")).map(line => line.slice(5).trim());
      if (data.length) yield JSON.parse(data.join("\n"));
    }
  }
}

async function transcribe(blob, name) {
  running?.abort();
  const job = running = new AbortController();
  clear();
  player.src = link(blob);
  status.textContent = `${name}: being transcribed …`;
  const body = new FormData();
  body.append("file", blob, name);
  body.append("model", form.elements.model.value);
  if (form.elements.language.value) body.append("language", form.elements.language.value);
  body.append("response_format", "verbose_json");
  body.append("include[]", "subtitles");
  body.append("stream", "true");
  try {
    const options = { method: "POST", body, headers: headers(), signal: job.signal };
    const response = await fetch("v1/audio/transcriptions", options);
    if (!response.ok) throw await failure(response);
    for await (const event of events(response)) {
      if (event.type === "transcript.text.segment") show(event);
      if (event.type === "transcript.text.done") finish(event, name);
      if (event.type === "error") throw new Error(event.error.message);
    }
  } catch (problem) {
    if (job.signal.aborted) return;
    status.textContent = "";
    error.textContent = problem.message;
  }
}

function clear() {
  links.forEach(URL.revokeObjectURL);
  links = [];
  error.textContent = "";
  segments.replaceChildren();
  find("downloads").replaceChildren();
  find("result").hidden = true;
}

function link(blob) {
  links.push(URL.createObjectURL(blob));
  return links.at(-1);
}

function clock(seconds) {
  const whole = Math.floor(seconds), pad = number => String(number).padStart(2, "0");
  const hours = Math.floor(whole / 3600);
  return `${hours ? `${hours}:` : ""}${pad(Math.floor(whole / 60) % 60)}:${pad(whole % 60)}`;
}

function show(segment) {
  find("result").hidden = false;
  const time = document.createElement("time"), text = document.createElement("span");
  time.textContent = clock(segment.start);
  text.append(...marked(segment));
  const button = document.createElement("button"), item = document.createElement("li");
  button.type = "button";
  button.dataset.start = segment.start;
  button.dataset.end = segment.end;
  button.append(time, text);
  item.append(button);
  segments.append(item);
}

// The text with its uncertain words marked.
function marked(segment) {
  const nodes = [];
  let end = 0;
  for (const { word, probability } of segment.words) {
    const begin = segment.text.indexOf(word, end);
    if (begin < 0) break;
    nodes.push(segment.text.slice(end, begin));
    end = begin + word.length;
    if (probability === null || probability >= UNSURE) {
      nodes.push(word);
    } else {
      const mark = document.createElement("span");
      mark.className = "unsure";
      mark.title = `${Math.round(100 * probability)}%`;
      mark.textContent = word;
      nodes.push(mark);
    }
  }
  return [...nodes, segment.text.slice(end)];
}

function finish(result, name) {
  const length = clock(result.duration), language = result.language[0].toUpperCase() + result.language.slice(1);
  status.textContent = result.text ? `Done: ${length}, ${language}.` : `No speech was found in ${length}.`;
  if (!result.text) return;
  const { type, subtitles, ...document_ } = result;
  const stem = name.replace(/\.[^.]*$/, "");
  const texts = { txt: `${result.text}\n`, ...subtitles, json: JSON.stringify(document_, null, 2) };
  for (const [suffix, text] of Object.entries(texts)) {
    const anchor = document.createElement("a");
    anchor.href = link(new Blob([text], { type: suffix === "json" ? "application/json" : "text/plain" }));
    anchor.download = `${stem}.${suffix}`;
    anchor.textContent = suffix.toUpperCase();
    find("downloads").append(anchor);
  }
}

segments.addEventListener("click", event => {
  const button = event.target.closest("button");
  if (!button) return;
  player.currentTime = Number(button.dataset.start);
  player.play().catch(() => { error.textContent = "This browser cannot play the recording."; });
});
player.addEventListener("timeupdate", () => {
  for (const button of segments.querySelectorAll("button")) {
    const inside = player.currentTime >= button.dataset.start && player.currentTime < button.dataset.end;
    button.classList.toggle("playing", inside);
    inside ? button.setAttribute("aria-current", "true") : button.removeAttribute("aria-current");
  }
});

file.addEventListener("change", () => {
  if (file.files[0]) transcribe(file.files[0], file.files[0].name);
  file.value = "";
});
form.addEventListener("submit", event => event.preventDefault());
form.elements.key.addEventListener("change", () => loadModels().catch(problem => { error.textContent = problem.message; }));
for (const kind of ["dragenter", "dragover"]) {
  drop.addEventListener(kind, event => { event.preventDefault(); drop.classList.add("over"); });
}
for (const kind of ["dragleave", "drop"]) drop.addEventListener(kind, () => drop.classList.remove("over"));
drop.addEventListener("drop", event => {
  event.preventDefault();
  const dropped = event.dataTransfer.files[0];
  if (dropped) transcribe(dropped, dropped.name);
});

// Text while somebody speaks. When the recording ends, the whole of it is transcribed.
class Live {
  constructor(stream) {
    const address = new URL("v1/realtime", location.href);
    address.protocol = location.protocol === "https:" ? "wss:" : "ws:";
    address.searchParams.set("model", form.elements.model.value);
    const key = form.elements.key.value;
    this.socket = new WebSocket(address, ["realtime", ...(key ? [`openai-insecure-api-key.${key}`] : [])]);
    this.socket.addEventListener("open", () => this.start(stream).catch(() => this.fail()));
    this.socket.addEventListener("message", message => this.receive(JSON.parse(message.data)));
    this.socket.addEventListener("error", () => this.fail());
    this.texts = new Map();
  }

  async start(stream) {
    const language = form.elements.language.value;
    if (language) this.send({ type: "session.update", session: { audio: { input: { transcription: { language } } } } });
    this.context = new AudioContext({ sampleRate: 24000 });
    await this.context.audioWorklet.addModule("microphone.js");
    const node = new AudioWorkletNode(this.context, "microphone");
    node.port.addEventListener("message", ({ data }) => {
      const bytes = new Uint8Array(data.buffer);
      this.send({ type: "input_audio_buffer.append", audio: btoa(String.fromCharCode(...bytes)) });
    });
    node.port.start();
    this.context.createMediaStreamSource(stream).connect(node);
  }

  send(event) {
    if (this.socket.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify(event));
  }

  receive({ type, item_id, delta, transcript, error: problem }) {
    if (type === "error") this.fail(problem.message);
    if (type.endsWith(".delta")) this.texts.set(item_id, (this.texts.get(item_id) ?? "") + delta);
    if (type.endsWith(".completed")) this.texts.set(item_id, transcript);
    find("live").textContent = [...this.texts.values()].join(" ");
  }

  fail(message = "") {
    if (recorder) status.textContent = `Recording, without live text. ${message}`;
  }

  close() {
    this.context?.close();
    this.socket.close();
    find("live").textContent = "";
  }
}

let recorder = null;
record.addEventListener("click", async () => {
  if (recorder) {
    recorder.stop();
    return;
  }
  try {
    const stream = await navigator.mediaDevices.getUserMedia({ audio: true });
    const parts = [];
    recorder = new MediaRecorder(stream);
    clear();
    let live = null;
    try {
      live = new Live(stream);
    } catch {
      // A key that cannot be part of a WebSocket's protocols.
    }
    recorder.addEventListener("dataavailable", event => parts.push(event.data));
    recorder.addEventListener("stop", () => {
      stream.getTracks().forEach(track => track.stop());
      live?.close();
      const blob = new Blob(parts, { type: recorder.mimeType });
      recorder = null;
      record.textContent = "Record";
      transcribe(blob, "recording.webm");
    });
    recorder.start();
    record.textContent = "Stop and transcribe";
    status.textContent = "Recording …";
  } catch {
    error.textContent = "The microphone is not available. Allow it in the browser; outside localhost, it needs HTTPS.";
  }
});

Promise.all([loadModels(), loadLanguages()]).catch(problem => { error.textContent = problem.message; });
