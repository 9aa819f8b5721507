// The forms that change destinations.

const $ = (id) => document.getElementById(id);

// open shows a dialog, sends what submit returns, and closes it when that is done. What
// was typed is gone with it.
function open(dialog, submit, done) {
  const form = dialog.querySelector("form"), problem = dialog.querySelector(".problem");
  const button = form.querySelector("[type=submit]"), opener = document.activeElement, card = opener?.closest(".stream");
  const ended = new AbortController();
  form.reset();
  problem.textContent = "";
  form.addEventListener("submit", async (e) => {
    e.preventDefault();
    if (button.disabled) return;
    problem.textContent = "";
    button.disabled = true;
    dialog.classList.add("waiting");
    try {
      const answer = await submit(ended.signal);
      if (answer.ok) {
        dialog.close();
        done();
        return;
      }
      problem.textContent = (answer.headers.get("Content-Type") ?? "").startsWith("application/json") ? (await answer.json()).message : await answer.text();
    } catch {
      if (!ended.signal.aborted) problem.textContent = "The server does not answer.";
    } finally {
      button.disabled = false;
      dialog.classList.remove("waiting");
    }
  }, { signal: ended.signal });
  dialog.querySelector("[data-close]").addEventListener("click", () => dialog.close(), { signal: ended.signal });
  dialog.addEventListener("close", () => {
    ended.abort(); // a request under way as well
    form.reset();
    if (opener && !opener.isConnected) card?.querySelector("h2").focus();
  }, { signal: ended.signal });
  dialog.showModal();
}

// edit asks for a destination.
export function edit({ title, of, button, method, url, done }) {
  const dialog = $("edit"), form = dialog.querySelector("form");
  $("edit-title").textContent = title;
  $("edit-of").textContent = of;
  form.querySelector("[type=submit]").textContent = button;
  form.querySelector("details").open = false;
  open(dialog, (signal) => {
    const destination = {};
    for (const [name, value] of new FormData(form)) if (value) destination[name] = name === "url" ? value.trim() : value;
    return fetch(url, { method, signal, headers: { "Content-Type": "application/json" }, body: JSON.stringify(destination) });
  }, done);
}

// confirmEnd ends a destination, if it is confirmed.
export function confirmEnd({ of, url, done }) {
  $("confirm-of").textContent = of;
  open($("confirm"), (signal) => fetch(url, { method: "DELETE", signal }), done);
}
