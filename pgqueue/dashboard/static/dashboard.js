// Keeps a page that is open up to date: hears which topics have changed, fetches the page again, and puts the parts
// that are about them in place, so that focus, selection and what is typed stay. Without it every page works, too.
"use strict";
(() => {
  const root = document.documentElement;
  const base = new URL(root.dataset.base || "./", location.href);
  const at = (path) => new URL(path, base).href;
  const pause = 5000;
  let versions = JSON.parse(root.dataset.versions || "{}");
  let busy = false, again = false, stop = () => {};

  // ----- what is on the page

  const say = (is_up) => {
    const banner = document.getElementById("banner"), live = document.getElementById("live");
    if (banner) banner.hidden = is_up;
    if (live) { live.hidden = false; live.textContent = is_up ? "live" : "no answer"; live.classList.toggle("off", !is_up); }
  };

  const changed = (now, topics) => topics.filter((topic) => now[topic] !== versions[topic]);

  const hear = (now) => {
    if (document.body.dataset.broken !== undefined) return location.reload();
    const shown = [...document.querySelectorAll("[data-topics]")];
    const stale = shown.some((part) => changed(now, part.dataset.topics.split(" ")).length);
    if (stale) refresh(now); else { versions = now; say(true); }
  };

  const refresh = async (now) => {
    if (busy) { again = true; return; }
    busy = true;
    try {
      const answer = await fetch(location.href, { headers: { Accept: "text/html" }, credentials: "same-origin" });
      if (!answer.ok) { say(answer.status < 500); return; }
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      for (const part of document.querySelectorAll("[data-topics][id]")) {
        const fresh = page.getElementById(part.id);
        if (fresh && changed(now, part.dataset.topics.split(" ")).length) morph(part, fresh);
      }
      const rooms = document.querySelector(".rooms"), rooms_now = page.querySelector(".rooms");
      if (rooms && rooms_now) morph(rooms, rooms_now);
      versions = now;
      say(true);
    } catch { say(false); } finally {
      busy = false;
      if (again) { again = false; }
    }
  };

  // Make one element like another, and leave alone what is alike: nodes stay, and with them focus and selection.
  const morph = (old, fresh) => {
    for (const { name, value } of fresh.attributes) if (old.getAttribute(name) !== value) old.setAttribute(name, value);
    for (const { name } of [...old.attributes]) {
      if (!fresh.hasAttribute(name) && !(name === "open" && old.localName === "details")) old.removeAttribute(name);
    }
    const before = [...old.childNodes], after = [...fresh.childNodes];
    after.forEach((node, index) => {
      const known = before[index];
      if (!known) old.append(document.importNode(node, true));
      else if (known.nodeType !== node.nodeType || known.nodeName !== node.nodeName) known.replaceWith(document.importNode(node, true));
      else if (node.nodeType === Node.ELEMENT_NODE) { if (!known.isEqualNode(node)) morph(known, node); }
      else if (known.data !== node.data) known.data = node.data;
    });
    before.slice(after.length).forEach((node) => node.remove());
  };

  // ----- how it hears

  const ask = async () => {
    try {
      const answer = await fetch(at("-/stale"), { credentials: "same-origin" });
      if (answer.ok) hear((await answer.json()).versions); else say(answer.status < 500);
    } catch { say(false); }
  };

  const poll = () => {
    const timer = setInterval(ask, pause);
    ask();
    return () => clearInterval(timer);
  };

  // One tab of a browser holds the stream and tells the others: six streams would block all further tabs.
  const lead = (channel) => {
    let source = null, leave = () => {};
    const quit = new AbortController();
    const told = (news) => { channel.postMessage(news); hear(news); };
    navigator.locks.request(`pgqueue ${base.pathname}`, { signal: quit.signal }, () => new Promise((resolve) => {
      leave = resolve;
      source = new EventSource(at("-/events"));
      source.addEventListener("versions", (event) => told(JSON.parse(event.data)));
      source.addEventListener("down", () => { channel.postMessage(null); say(false); });
      source.onerror = () => { channel.postMessage(null); say(false); };
    })).catch(() => {});
    return () => { quit.abort(); if (source) source.close(); leave(); };
  };

  const follow = () => {
    if (root.dataset.live !== "events" || !navigator.locks || !window.BroadcastChannel) return poll();
    const channel = new BroadcastChannel(`pgqueue ${base.pathname}`);
    channel.onmessage = ({ data }) => (data ? hear(data) : say(false));
    const leave = lead(channel);
    return () => { leave(); channel.close(); };
  };

  // A tab that nobody sees hears nothing, and asks when it is seen again.
  const turn = () => {
    stop();
    stop = () => {};
    if (document.hidden) return;
    if (document.body.dataset.broken !== undefined) stop = poll();
    else { stop = follow(); ask(); }
  };
  // A page that answers a form cannot be fetched again: it stays as it is, and hears nothing.
  if (root.dataset.live !== undefined || document.body.dataset.broken !== undefined) {
    document.addEventListener("visibilitychange", turn);
    addEventListener("pagehide", () => stop());
    addEventListener("pageshow", (event) => { if (event.persisted) turn(); });
    turn();
  }

  // ----- small things

  if (navigator.clipboard) {
    for (const button of document.querySelectorAll("[data-copy]")) {
      button.hidden = false;
      button.addEventListener("click", async () => {
        await navigator.clipboard.writeText(button.closest(".copy").querySelector("pre").textContent);
        button.textContent = "copied";
        setTimeout(() => { button.textContent = "copy"; }, 1500);
      });
    }
  }
  document.querySelector(".search")?.addEventListener("submit", (event) => {
    const id = event.target.elements.id.value.trim();
    if (/^[0-9]+$/.test(id)) { event.preventDefault(); location.assign(at(`jobs/${id}`)); }
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "/" && !event.target.closest("input, textarea, select")) {
      event.preventDefault();
      document.querySelector(".search input")?.focus();
    }
  });
})();
