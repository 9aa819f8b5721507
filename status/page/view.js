// What the page shows. Elements stay while what they show changes: focus, selection and
// the reading position of a screen reader stay as well.

import * as format from "./format.js";
import { confirmEnd, edit } from "./forms.js";
import { Picture } from "./picture.js";

const samples = 120; // of a sparkline, one a second
const autoPictures = 3; // at a time: a browser has 6 connections to a server
const maxPictures = 4;
const linger = 5000; // ms that a picture goes on out of sight
const calm = matchMedia("(prefers-reduced-motion: reduce)"); // pictures move only if asked for
const $ = (id) => document.getElementById(id);

function put(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function attribute(element, name, value) {
  if (element.getAttribute(name) !== value) element.setAttribute(name, value);
}

// copy returns a copy of a template's element.
const copy = (template) => $(template).content.firstElementChild.cloneNode(true);

// reconcile makes the children of an element those of items, in their order.
function reconcile(parent, views, items, make) {
  const there = new Set(items.map((item) => item.id));
  for (const [id, view] of views) {
    if (there.has(id)) continue;
    const focused = view.element.contains(document.activeElement);
    view.remove();
    views.delete(id);
    if (focused) (parent.closest(".stream") ?? document).querySelector("h2").focus();
  }
  items.forEach((item, i) => {
    let view = views.get(item.id);
    if (!view) views.set(item.id, (view = make(item)));
    if (parent.children[i] !== view.element) parent.insertBefore(view.element, parent.children[i] ?? null);
  });
}

// Announcer tells screen readers of changes, seldom enough to be heard.
class Announcer {
  #news = [];
  #timer = 0;

  add(text) {
    this.#news.push(text);
    this.#timer ||= setTimeout(() => {
      this.#timer = 0;
      const news = this.#news.splice(0);
      $("announce").textContent = news.length > 3 ? `${news.length} destinations have changed.` : news.join(" ");
    }, 2000);
  }
}

const announcer = new Announcer();

export class Dashboard {
  #streams = new Map();
  #changed; // called after a change that a form has made
  #lastEvent = -1;
  #live = false; // the server has pictures

  constructor(changed) {
    this.#changed = changed;
    this.seen = new IntersectionObserver((entries) => {
      for (const e of entries) {
        const stream = this.#streams.get(e.target.dataset.id);
        if (stream) stream.leftAt = e.isIntersecting ? Infinity : Math.min(stream.leftAt, performance.now());
      }
      this.#pictures();
    });
  }

  update(data) {
    const now = Date.parse(data.now), s = data.server;
    const total = data.sources.reduce((n, src) => n + src.forwarders.length, 0);
    const well = data.sources.reduce((n, src) => n + src.forwarders.filter((f) => f.state === "publishing").length, 0);
    put($("t-streams"), format.count(data.sources.length));
    put($("t-destinations"), format.count(total));
    put($("t-publishing"), total ? (well === total ? "all publishing" : `${format.count(total - well)} not publishing`) : "");
    attribute($("t-publishing"), "data-level", well === total ? "good" : "bad");
    put($("t-players"), format.count(s.players));
    put($("t-in"), format.bitrate(s.bitrate_in));
    put($("t-out"), format.bitrate(s.bitrate_out));
    const title = well < total ? `(${total - well}) forward` : "forward";
    if (document.title !== title) document.title = title;
    $("empty").hidden = data.sources.length > 0;

    this.#live = data.pictures;
    reconcile($("streams"), this.#streams, data.sources, (src) => new Stream(src, this));
    for (const src of data.sources) this.#streams.get(src.id).update(src, now);
    this.#pictures();
    this.#events(data.events);
  }

  changed() { this.#changed(); }

  // pictures starts and stops pictures, so that there are not too many.
  #pictures() {
    let n = 0;
    for (const s of this.#streams.values()) {
      const on = this.#live && s.hasVideo && n < maxPictures && (s.wants ?? (performance.now() - s.leftAt < linger && n < autoPictures && !calm.matches));
      if (on) n++;
      s.showPicture(on);
    }
  }

  #events(events) {
    const last = events.at(-1)?.seq ?? 0;
    if (last === this.#lastEvent || !$("events").open) return;
    this.#lastEvent = last;
    $("no-events").hidden = events.length > 0;
    $("event-list").replaceChildren(...events.toReversed().map((e) => {
      const item = document.createElement("li"), time = document.createElement("time"), stream = document.createElement("strong");
      time.dateTime = e.time;
      time.textContent = format.clock(e.time);
      stream.textContent = e.stream ?? "";
      item.append(time, " ", stream, " ", format.event(e));
      return item;
    }));
  }

  // pause stops what a page that nobody sees does not need.
  pause() {
    for (const s of this.#streams.values()) s.showPicture(false);
  }

  clear() {
    for (const s of this.#streams.values()) s.remove();
    this.#streams.clear();
    this.#lastEvent = -1;
    $("event-list").replaceChildren();
    document.title = "forward";
  }
}

class Stream {
  #destinations = new Map();
  #lags = []; // of the slowest destination, ms
  #picture;
  #dashboard;
  leftAt = -Infinity; // when it was out of sight, ms; Infinity: it is in sight

  constructor(src, dashboard) {
    const e = (this.element = copy("stream-template"));
    this.id = e.dataset.id = src.id;
    this.#dashboard = dashboard;
    this.#picture = new Picture(e.querySelector(".picture"), `sources/${encodeURIComponent(src.id)}/live.mp4`);
    this.list = e.querySelector("ul");
    this.at = Object.fromEntries(
      ["h2", ".head .since", ".video", ".audio", ".facts .bitrate", ".frames", ".gop", ".players", ".lag-now", ".lag-most", ".none", "svg", "polyline"]
        .map((at) => [at, e.querySelector(at)]),
    );
    put(this.at.h2, src.stream);
    put(e.querySelector(".add-of"), ` a destination to ${src.stream}`);
    attribute(e, "aria-label", `Stream ${src.stream}`);
    e.querySelector(".add").addEventListener("click", () => edit({
      title: "Add a destination", of: src.stream, button: "Add", method: "POST", url: this.path(), done: () => dashboard.changed(),
    }));
    e.querySelector(".picture-toggle").addEventListener("click", () => {
      this.wants = !this.#picture.running;
      this.showPicture(this.wants);
    });
    dashboard.seen.observe(e);
  }

  // path is that of its destinations in the control API.
  path() { return `control/sources/${encodeURIComponent(this.id)}/forwarders`; }

  update(src, now) {
    const at = this.at;
    put(at[".head .since"], `Live for ${format.span((now - Date.parse(src.since)) / 1000)}, since ${format.clock(src.since)}${src.ip ? `, from ${src.ip}` : ""}`);
    put(at[".video"], format.video(src));
    put(at[".audio"], format.audio(src));
    put(at[".facts .bitrate"], format.bitrate(src.bitrate));
    put(at[".frames"], format.rate(src.frame_rate));
    put(at[".gop"], src.gop_ms ? `every ${format.milliseconds(src.gop_ms)}` : "–");
    put(at[".players"], format.count(src.players));
    this.hasVideo = src.video_codec !== "";
    this.#picture.codecs = src.video_codec + src.audio_codec;
    this.#lag(src);
    at[".none"].hidden = src.forwarders.length > 0;
    reconcile(this.list, this.#destinations, src.forwarders, (d) => new Destination(d, this, src.stream, () => this.#dashboard.changed()));
    for (const d of src.forwarders) this.#destinations.get(d.id).update(d, now);
  }

  #lag(src) {
    const now = src.forwarders.reduce((most, d) => Math.max(most, d.lag_ms), 0);
    this.#lags.push(now);
    if (this.#lags.length > samples) this.#lags.shift();
    const most = Math.max(...this.#lags), scale = Math.max(most, 200); // so that jitter does not look like trouble
    const from = samples - this.#lags.length;
    this.at.polyline.setAttribute("points", this.#lags.map((ms, i) => `${from + i + 1},${(28 - (26 * ms) / scale).toFixed(1)}`).join(" "));
    put(this.at[".lag-now"], format.milliseconds(now));
    put(this.at[".lag-most"], `at most ${format.milliseconds(most)}`);
    attribute(this.at.svg, "aria-label", `At most ${format.milliseconds(most)} in the last 2 minutes`);
  }

  showPicture(on) {
    if (on) this.#picture.start();
    else this.#picture.stop();
  }

  remove() {
    this.#dashboard.seen.unobserve(this.element);
    this.#picture.stop();
    this.element.remove();
  }
}

class Destination {
  #said; // the state in words

  constructor(d, stream, of, changed) {
    const e = (this.element = copy("destination-template"));
    e.dataset.id = d.id;
    this.at = Object.fromEntries(
      [".badge", ".since", "h4", ".why", ".bitrate", ".lag", ".rtt", ".dropped", ".replace", ".end"].map((at) => [at, e.querySelector(at)]),
    );
    const url = `${stream.path()}/${encodeURIComponent(d.id)}`;
    this.at[".replace"].addEventListener("click", () => edit({
      title: "Replace a destination", of: `${this.url}, of ${of}`, button: "Replace", method: "PUT", url, done: changed,
    }));
    this.at[".end"].addEventListener("click", () => confirmEnd({ of: `${this.url}, of ${of}`, url, done: changed }));
  }

  update(d, now) {
    const at = this.at, [words, level] = format.state(d);
    this.url = d.url;
    put(at.h4, d.url);
    put(at[".badge"], words);
    attribute(this.element, "data-level", level);
    put(at[".since"], `for ${format.span((now - Date.parse(d.since)) / 1000)}`);
    at[".since"].title = `since ${format.clock(d.since)}`;
    put(at[".why"], format.why(d, now));
    put(at[".bitrate"], format.bitrate(d.bitrate));
    put(at[".lag"], format.milliseconds(d.lag_ms));
    put(at[".rtt"], d.rtt_ms ? format.milliseconds(d.rtt_ms) : "–");
    put(at[".dropped"], format.count(d.dropped));
    for (const b of [".replace", ".end"]) put(at[b].querySelector(".aside"), ` ${d.url}`);
    if (this.#said && this.#said !== words && (level === "good" || level === "bad")) announcer.add(`${d.url}: ${words}.`);
    this.#said = words;
  }

  remove() { this.element.remove(); }
}
