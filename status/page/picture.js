// The live picture of a stream: fragmented MP4 that the browser decodes.

import { codec } from "./format.js";

const behind = 0.8; // s that the picture is behind the live edge
const hurry = 1.5; // s behind: it plays faster
const jump = 2.5; // s behind: it jumps
const kept = 5; // s that are kept of what was shown
const patience = 8000; // ms without data
const Source = self.ManagedMediaSource ?? self.MediaSource; // the first is iPhone's

export class Picture {
  codecs = ""; // of the stream: with others it is tried again
  #ended = null; // AbortController while it runs
  #refused = null; // codecs that there is no picture for

  constructor(element, url) {
    this.element = element;
    this.url = url;
    this.video = element.querySelector("video");
    this.video.disableRemotePlayback = true;
    this.note = element.querySelector(".picture-note");
    this.button = element.querySelector(".picture-toggle");
    this.#draw("Stopped");
  }

  get running() { return this.#ended !== null; }

  start() {
    if (this.#ended || this.#refused === this.codecs) return;
    this.#refused = null;
    this.element.hidden = this.button.hidden = false;
    this.#ended = new AbortController();
    this.#draw("Loading");
    this.#run(this.#ended.signal);
  }

  stop() {
    if (!this.#ended) return;
    this.#ended.abort();
    this.#ended = null;
    this.#clear();
    this.#draw("Stopped");
  }

  #draw(note) {
    if (this.note.textContent !== note) this.note.textContent = note;
    const text = this.running ? "Stop the picture" : "Show the picture";
    if (this.button.textContent !== text) this.button.textContent = text;
  }

  #clear() {
    this.video.removeAttribute("src");
    this.video.load(); // frees what is buffered
  }

  // refuse gives up, until the stream has other codecs.
  #refuse(note) {
    this.#refused = this.codecs;
    this.#ended = null;
    this.#clear();
    this.#draw(note);
    this.button.hidden = true;
  }

  // run plays until it is stopped, and again after each end and failure.
  async #run(signal) {
    for (let wait = 500; !signal.aborted; wait = Math.min(2 * wait, 8000)) {
      const since = Date.now();
      try {
        const refused = await this.#play(signal);
        if (refused && !signal.aborted) return this.#refuse(refused);
      } catch { /* the connection, or what came, is broken */ }
      if (signal.aborted) return;
      if (Date.now() - since > 10000) wait = 500;
      this.#draw("Waiting for the picture");
      await new Promise((next) => setTimeout(next, wait));
    }
  }

  // play plays one answer. It returns why there is no picture, if that will not change.
  async #play(signal) {
    if (!Source) return "This browser cannot show live video.";
    const own = new AbortController(), stop = () => own.abort();
    signal.addEventListener("abort", stop);
    let late = setTimeout(stop, patience), media;
    try {
      const answer = await fetch(this.url, { signal: own.signal, cache: "no-store" });
      if (answer.status === 406) return "There is no picture of this codec.";
      if (!answer.ok) throw new Error(answer.status);
      const type = answer.headers.get("Content-Type");
      if (!Source.isTypeSupported(type)) return `This browser cannot decode ${names(type)}.`;

      media = new Source();
      const url = URL.createObjectURL(media);
      this.video.src = url;
      await event(media, "sourceopen", own.signal);
      URL.revokeObjectURL(url);
      const buffer = media.addSourceBuffer(type);
      const reader = answer.body.getReader();
      for (;;) {
        const { value, done } = await reader.read();
        if (done) return "";
        clearTimeout(late);
        late = setTimeout(stop, patience);
        await change(buffer, () => buffer.appendBuffer(value), own.signal);
        await this.#follow(buffer, own.signal);
      }
    } finally {
      clearTimeout(late);
      own.abort();
      signal.removeEventListener("abort", stop);
      if (media && !signal.aborted) this.#clear();
    }
  }

  // follow keeps the picture near the live edge, and forgets what was shown.
  async #follow(buffer, signal) {
    const video = this.video, ranges = video.buffered;
    if (ranges.length === 0) return;
    const start = ranges.start(ranges.length - 1), edge = ranges.end(ranges.length - 1), late = edge - video.currentTime;
    if (late > jump || video.currentTime < start) {
      video.currentTime = Math.max(start, edge - behind);
      video.playbackRate = 1;
    } else {
      video.playbackRate = late > hurry ? 1.1 : 1;
    }
    if (video.paused) video.play().catch(() => {}); // which may need more data: nothing waits for it
    this.#draw(`Live, ${Math.max(0, edge - video.currentTime).toFixed(1)} s behind`);
    if (video.currentTime - ranges.start(0) > 2 * kept) {
      await change(buffer, () => buffer.remove(0, video.currentTime - kept), signal);
    }
  }
}

// names are the codecs of a media type.
function names(type) {
  const codecs = /codecs="?([^"]*)/.exec(type ?? "")?.[1] ?? "";
  return codecs.split(",").map((c) => codec(c.trim().split(".")[0])).join(" and ") || "this stream";
}

// event waits for an event.
function event(target, name, signal) {
  return new Promise((happened, failed) => {
    if (signal.aborted) return failed(signal.reason);
    const over = new AbortController();
    const end = (f, v) => { over.abort(); f(v); };
    target.addEventListener(name, () => end(happened), { signal: over.signal });
    target.addEventListener("error", () => end(failed, new Error(name)), { signal: over.signal });
    signal.addEventListener("abort", () => end(failed, signal.reason), { signal: over.signal });
  });
}

// change waits until a SourceBuffer has done something.
async function change(buffer, f, signal) {
  const done = event(buffer, "updateend", signal);
  done.catch(() => {});
  f();
  await done;
}
