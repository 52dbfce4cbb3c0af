// Small pieces of the page: elements, times as text, and rows that exist only while they are seen.
// Whatever comes from a span or a log line enters the page as textContent, never as markup.

export function el(tag, props = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (value === undefined || value === null || value === false) continue;
    if (name === "class") node.className = value;
    else if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : String(value));
  }
  node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

const UNITS = [
  [1e3, 1, "µs"],
  [1e6, 1e3, "ms"],
  [60e6, 1e6, "s"],
];

export function duration(us) {
  for (const [limit, unit, name] of UNITS) {
    if (us < limit) return `${trim(us / unit)} ${name}`;
  }
  const seconds = Math.round(us / 1e6);
  const [days, hours, minutes] = [Math.floor(seconds / 86400), Math.floor(seconds / 3600) % 24, Math.floor(seconds / 60) % 60];
  if (days) return `${days} d ${hours} h`;
  if (hours) return `${hours} h ${minutes} min`;
  return `${minutes} min ${seconds % 60} s`;
}

function trim(number) {
  if (number >= 100) return String(Math.round(number));
  return String(Number(number.toPrecision(3)));
}

// Neither this nor clock() asks the browser's locale: its first answer takes 50 ms of a list's 300.
export function grouped(number) {
  return String(number).replace(/\B(?=(\d{3})+$)/g, ",");
}

export function clock(iso) {
  const moment = new Date(iso);
  const time = [moment.getHours(), moment.getMinutes(), moment.getSeconds()]
    .map((part) => String(part).padStart(2, "0")).join(":");
  const midnight = new Date().setHours(0, 0, 0, 0);
  const today = moment >= midnight && moment < midnight + 86_400_000;
  return today ? time : `${moment.toLocaleDateString([], { month: "short", day: "numeric" })} ${time}`;
}

// A service keeps its colour on every page. Amber is the colour of waiting and red that of failure,
// so no service has them.
const HUES = [255, 170, 300, 345, 215, 145, 325, 280];
const given = new Map();

export function hue(service) {
  if (!given.has(service)) given.set(service, HUES[given.size % HUES.length]);
  return given.get(service);
}

export function serviceChip(service) {
  const chip = el("span", { class: "service" }, service);
  chip.style.setProperty("--hue", hue(service));
  return chip;
}

export function badge(text, kind = text) {
  return el("span", { class: `badge is-${String(kind).replace(/[^a-z]/g, "")}` }, text);
}

export function copyable(value) {
  return el("button", {
    class: "copy", type: "button", title: "Copy",
    onclick: async (event) => {
      await navigator.clipboard.writeText(value);
      event.target.classList.add("copied");
      setTimeout(() => event.target.classList.remove("copied"), 900);
    },
  }, value);
}

// Only the rows in sight are in the document: 5,000 spans cost what 50 cost.
export class Rows {
  constructor(viewport, { height, render, key }) {
    this.viewport = viewport;
    this.height = height;
    this.render = render;
    this.key = key;
    this.items = [];
    this.shown = new Map();
    this.canvas = el("div", { class: "rows" });
    viewport.append(this.canvas);
    this.frame = 0;
    this.later = () => { this.frame ||= requestAnimationFrame(() => this.draw()); };
    viewport.addEventListener("scroll", this.later, { passive: true });
    this.observer = new ResizeObserver(this.later);
    this.observer.observe(viewport);
  }

  set(items) {
    this.items = items;
    this.draw();
  }

  draw() {
    this.frame = 0;
    const height = this.height();
    this.canvas.style.height = `${this.items.length * height}px`;
    const offset = this.canvas.offsetTop - this.viewport.offsetTop;
    const top = this.viewport.scrollTop - offset;
    const first = Math.max(0, Math.floor(top / height) - 8);
    const last = Math.min(this.items.length, Math.ceil((top + this.viewport.clientHeight) / height) + 8);
    const seen = new Map();
    for (const item of this.items.slice(first, last)) {
      const known = this.shown.get(this.key(item));
      seen.set(this.key(item), known?.item === item ? known : { item, node: this.render(item) });
    }
    for (const [key, row] of this.shown) if (seen.get(key) !== row) row.node.remove();
    // In the order in which they are read, and moved only where that changed.
    let place = this.canvas.firstChild;
    let index = first;
    for (const { node } of seen.values()) {
      if (node === place) place = place.nextSibling;
      else this.canvas.insertBefore(node, place);
      node.style.transform = `translateY(${index * height}px)`;
      node.style.height = `${height}px`;
      node.classList.toggle("odd", index % 2 === 1);
      index++;
    }
    this.shown = seen;
    this.ondraw?.(last);
  }

  // The row of *key* is drawn anew.
  forget(key) {
    this.shown.get(key)?.node.remove();
    this.shown.delete(key);
  }

  reveal(index) {
    const height = this.height();
    const offset = this.canvas.offsetTop - this.viewport.offsetTop;
    const sticky = Math.min(offset, 34);
    const [top, view] = [index * height + offset, this.viewport.clientHeight];
    if (top - sticky < this.viewport.scrollTop) this.viewport.scrollTop = index === 0 ? 0 : top - sticky;
    else if (top + height > this.viewport.scrollTop + view) this.viewport.scrollTop = top + height - view;
    this.draw();
  }

  dispose() {
    this.observer.disconnect();
    cancelAnimationFrame(this.frame);
  }
}

// Ask again and again; the ETag makes an unchanged answer free, and a hidden page does not ask.
// What is known of it from before, with its tag, is taken as the first answer.
export class Watch {
  constructor(url, { onData, onState, known = null, every = 1000 }) {
    Object.assign(this, { url, onData, onState, every, tag: null, stopped: false });
    this.abort = new AbortController();
    this.visible = () => { if (!document.hidden) this.soon(0); };
    document.addEventListener("visibilitychange", this.visible);
    if (!known) return void this.ask();
    this.tag = known.tag;
    onData(known.page);
    onState?.("live");
    this.soon(every);
  }

  soon(delay) {
    clearTimeout(this.timer);
    if (!this.stopped) this.timer = setTimeout(() => this.ask(), delay);
  }

  async ask() {
    if (this.asking) return;
    this.asking = true;
    try {
      const headers = this.tag ? { "if-none-match": this.tag } : {};
      const response = await fetch(this.url, { headers, cache: "no-store", signal: this.abort.signal });
      if (this.stopped) return;
      this.onState?.("live");
      if (response.status !== 304) {
        this.tag = response.headers.get("etag");
        this.onData(response.ok ? await response.json() : null, response.status);
      }
    } catch (error) {
      if (!this.stopped) this.onState?.("lost");
      if (!(error instanceof TypeError) && error.name !== "AbortError") throw error;
    } finally {
      this.asking = false;
      if (!document.hidden) this.soon(this.every);
    }
  }

  stop() {
    this.stopped = true;
    clearTimeout(this.timer);
    this.abort.abort();
    document.removeEventListener("visibilitychange", this.visible);
  }
}
