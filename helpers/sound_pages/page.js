"use strict";

const $ = (id) => document.getElementById(id);
let about = null; // what the server takes
let recorder = null;
let latest = 0; // number of the latest search: an older answer that arrives later is dropped
let queryAddress = null;

function say(text, isError = false) {
  $("status").textContent = text;
  $("status").classList.toggle("error", isError);
}

// 16-bit PCM wav of one channel, which the server reads without any codec.
function wavOf(samples, sampleRate) {
  const view = new DataView(new ArrayBuffer(44 + 2 * samples.length));
  const text = (offset, letters) => [...letters].forEach((c, i) => view.setUint8(offset + i, c.charCodeAt(0)));
  text(0, "RIFF");
  view.setUint32(4, 36 + 2 * samples.length, true);
  text(8, "WAVEfmt ");
  view.setUint32(16, 16, true);
  view.setUint16(20, 1, true);
  view.setUint16(22, 1, true);
  view.setUint32(24, sampleRate, true);
  view.setUint32(28, 2 * sampleRate, true);
  view.setUint16(32, 2, true);
  view.setUint16(34, 16, true);
  text(36, "data");
  view.setUint32(40, 2 * samples.length, true);
  samples.forEach((value, i) => view.setInt16(44 + 2 * i, Math.round(Math.max(-1, Math.min(1, value)) * 32767), true));
  return new Blob([view], { type: "audio/wav" });
}

// What the browser can decode, such as its own recordings, as wav; a little more than the encoder uses.
async function decoded(blob) {
  const context = new (window.AudioContext || window.webkitAudioContext)();
  try {
    const audio = await context.decodeAudioData(await blob.arrayBuffer());
    const length = Math.min(audio.length, Math.ceil((about.query_seconds + 1) * audio.sampleRate));
    const mono = new Float32Array(length);
    for (let channel = 0; channel < audio.numberOfChannels; channel++) {
      const samples = audio.getChannelData(channel);
      for (let i = 0; i < length; i++) mono[i] += samples[i] / audio.numberOfChannels;
    }
    return wavOf(mono, audio.sampleRate);
  } finally {
    context.close();
  }
}

async function ask(address, options) {
  const response = await fetch(address, options);
  const answer = await response.json().catch(() => ({ error: `the server answers ${response.status}` }));
  return { ok: response.ok, status: response.status, answer };
}

function upload(blob, name) {
  const type = blob.type.startsWith("audio/") ? blob.type : "application/octet-stream";
  return ask(`api/search?name=${encodeURIComponent(name)}`, {
    method: "POST",
    headers: { "Content-Type": type },
    body: blob,
  });
}

async function search(name, request, blob = null) {
  const number = ++latest;
  say("Searching …");
  $("results").replaceChildren();
  showQuery(name, blob);
  try {
    const { ok, answer } = await request();
    if (number !== latest) return;
    if (!ok) return say(answer.error, true);
    say(answer.notices.join(" "));
    show(answer.results);
  } catch (error) {
    if (number === latest) say(`No answer: ${error.message}`, true);
  }
}

function searchFile(file) {
  if (file.size > about.limit_megabytes * 1e6) {
    return say(`${file.name}: larger than ${about.limit_megabytes} MB`, true);
  }
  return search(file.name, async () => {
    const first = await upload(file, file.name);
    if (first.status !== 415) return first;
    const wav = await decoded(file).catch(() => null); // formats that only the browser knows
    return wav === null ? first : upload(wav, file.name);
  }, file);
}

function showQuery(name, blob) {
  if (queryAddress) URL.revokeObjectURL(queryAddress);
  queryAddress = blob && URL.createObjectURL(blob);
  $("query-name").textContent = name;
  $("query-audio").hidden = !blob;
  if (blob) $("query-audio").src = queryAddress;
  else $("query-audio").removeAttribute("src");
  $("query").hidden = false;
}

function show(results) {
  for (const result of results) {
    const item = $("result").content.cloneNode(true);
    item.querySelector(".rank").textContent = `${result.rank}.`;
    item.querySelector(".path").textContent = result.path;
    const at = result.start > 0 ? `, best at ${result.start.toFixed(1)} s` : "";
    item.querySelector(".facts").textContent =
      `similarity ${result.score.toFixed(3)}, ${result.seconds.toFixed(1)} s long${at}`;
    const image = item.querySelector("img");
    image.src = result.spectrogram;
    image.alt = `Spectrogram of ${result.path}`;
    const audio = item.querySelector("audio");
    audio.src = result.audio;
    const button = item.querySelector(".play");
    button.addEventListener("click", () => toggle(audio, result.start));
    audio.addEventListener("play", () => {
      button.textContent = "Pause";
      stopOthers(audio);
    });
    audio.addEventListener("pause", () => { button.textContent = "Play"; });
    audio.addEventListener("error", () => say(`${result.path}: cannot be played`, true));
    $("results").append(item);
  }
}

// One sound at a time, and one connection: a browser has six for a server, and a long sound keeps one as it waits.
function stopOthers(audio) {
  for (const other of document.querySelectorAll("audio")) {
    if (other === audio) continue;
    other.pause();
    if (other !== $("query-audio") && other.readyState > 0) other.load();
  }
}

function toggle(audio, start) {
  if (!audio.paused) return audio.pause();
  if (audio.currentTime === 0 || audio.ended) audio.currentTime = start;
  return audio.play().catch((error) => say(error.message, true));
}

async function record() {
  if (recorder) return recorder.stop();
  if (!navigator.mediaDevices || !window.MediaRecorder) {
    return say("This browser records only on pages of this computer (127.0.0.1) or over https.", true);
  }
  let stream;
  $("record").disabled = true; // until the browser has asked for permission
  try {
    // Effects for speech would change the imitation.
    stream = await navigator.mediaDevices.getUserMedia({
      audio: { echoCancellation: false, noiseSuppression: false, autoGainControl: false },
    });
  } catch (error) {
    return say(`No microphone: ${error.message}`, true);
  } finally {
    $("record").disabled = false;
  }
  const pieces = [];
  recorder = new MediaRecorder(stream);
  recorder.ondataavailable = (event) => pieces.push(event.data);
  const own = recorder;
  const limit = setTimeout(() => own.stop(), 1000 * about.query_seconds);
  recorder.onstop = async () => {
    clearTimeout(limit);
    stream.getTracks().forEach((track) => track.stop());
    recorder = null;
    $("record").textContent = "Record";
    $("record").classList.remove("on");
    try {
      const wav = await decoded(new Blob(pieces, { type: own.mimeType }));
      search("recording", () => upload(wav, "recording"), wav);
    } catch (error) {
      say(`The recording cannot be decoded: ${error.message}`, true);
    }
  };
  recorder.start();
  $("record").textContent = "Stop and search";
  $("record").classList.add("on");
  say(`Recording, at most ${about.query_seconds} s …`);
}

function listen() {
  $("record").addEventListener("click", record);
  $("file").addEventListener("change", () => {
    if ($("file").files.length) searchFile($("file").files[0]);
    $("file").value = ""; // the same file can be chosen again
  });
  const drop = $("drop");
  for (const kind of ["dragover", "drop"]) {
    // Also beside the field, where the browser would open the file in place of the page.
    window.addEventListener(kind, (event) => event.preventDefault());
  }
  drop.addEventListener("dragover", () => drop.classList.add("over"));
  drop.addEventListener("dragleave", () => drop.classList.remove("over"));
  drop.addEventListener("drop", (event) => {
    drop.classList.remove("over");
    if (event.dataTransfer.files.length) searchFile(event.dataTransfer.files[0]);
  });
  $("text").hidden = !about.text;
  $("text").addEventListener("submit", (event) => {
    event.preventDefault();
    const words = $("words").value.trim();
    if (words) search(words, () => ask(`api/text?q=${encodeURIComponent(words)}`));
  });
}

async function start() {
  const { ok, answer } = await ask("api/index");
  if (!ok) return say(answer.error, true);
  about = answer;
  $("about").textContent =
    `${about.sounds} sounds. Hum, sing or imitate; the first ${about.query_seconds} s are compared.`;
  listen();
  document.body.dataset.ready = "yes";
}

start().catch((error) => say(`No answer: ${error.message}`, true));
