// The page: it asks for the data once a second while it is visible, and shows it.

import { Dashboard } from "./view.js";
import { span } from "./format.js";

const $ = (id) => document.getElementById(id);
const interval = 1000; // ms between an answer and the next question
const patience = 10000; // ms for an answer
const pause = 2000; // ms after a failure

const dashboard = new Dashboard(() => loop.now());

// show shows the login or the dashboard.
function show(loggedIn) {
  $("login").hidden = loggedIn;
  $("dashboard").hidden = $("logout").hidden = !loggedIn;
  document.body.classList.remove("stale");
}

function say(text, stale) {
  if ($("connection").textContent !== text) $("connection").textContent = text;
  document.body.classList.toggle("stale", stale);
}

// loop asks, until there is no session or the page is hidden.
const loop = {
  timer: 0,
  asking: null, // aborts the question
  lostAt: 0,
  known: false, // there was an answer since the last login

  now() {
    clearTimeout(this.timer);
    if (!document.hidden && !this.asking) this.ask();
  },

  stop() {
    clearTimeout(this.timer);
    this.asking?.abort();
    this.asking = null;
  },

  async ask() {
    const asking = (this.asking = new AbortController());
    const late = setTimeout(() => asking.abort(), patience);
    let wait = interval;
    try {
      if (!this.known && !(await (await fetch("session", { signal: asking.signal, cache: "no-store" })).json()).operator) {
        if (asking !== this.asking) return;
        this.stop();
        this.end();
        return;
      }
      const answer = await fetch("page/status.json", { signal: asking.signal, cache: "no-store" });
      if (asking !== this.asking) return;
      if (answer.status === 401) {
        this.stop();
        this.end();
        return;
      }
      if (!answer.ok) throw new Error(answer.status);
      const data = await answer.json();
      if (asking !== this.asking) return;
      this.lostAt = 0;
      this.known = true;
      say("", false);
      show(true);
      dashboard.update(data);
    } catch {
      if (asking !== this.asking) return; // stopped
      this.lostAt ||= Date.now();
      wait = pause;
      say(this.known ? `No connection for ${span((Date.now() - this.lostAt) / 1000)}: trying again` : "No connection: trying again", true);
    } finally {
      clearTimeout(late);
    }
    this.asking = null;
    this.timer = setTimeout(() => this.ask(), wait);
  },

  // end asks for a login: there was none, or the session has ended.
  end() {
    const ended = this.known;
    this.known = false;
    this.lostAt = 0;
    dashboard.clear();
    say("", false);
    show(false);
    if (ended) $("login-why").textContent = "Your session has ended, or the server was restarted. Log in again.";
    $("token").focus();
  },
};

document.addEventListener("visibilitychange", () => {
  if (document.hidden) {
    loop.stop();
    dashboard.pause();
  } else {
    loop.now();
  }
});

$("login").querySelector("form").addEventListener("submit", async (e) => {
  e.preventDefault();
  const field = $("token"), why = $("login-why"), button = e.target.querySelector("button");
  why.textContent = "";
  button.disabled = true;
  try {
    const answer = await fetch("session", {
      method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ token: field.value }),
    });
    if (answer.ok) {
      field.value = "";
      loop.now();
      return;
    }
    why.textContent = await answer.text();
  } catch {
    why.textContent = "The server does not answer.";
  } finally {
    button.disabled = false;
  }
  field.select();
});

$("logout").addEventListener("click", async () => {
  loop.stop();
  await fetch("session", { method: "DELETE" }).catch(() => {});
  loop.known = false;
  loop.end();
});

loop.now();
