// A list that is newest first and fills while you look: what traces and tasks have in common.

import { Rows, Watch, el } from "./dom.js";

const PAGE = 100;
const FRESH_MS = 1600;

export class Listing {
  // kind: { path, items, id, time, noun, filters, address, asked, row, waiting } and where rows have
  // types to choose from { types }, the name that the answer has for them
  constructor(main, kind, { query, open, onState, onFilter, known }) {
    Object.assign(this, { kind, query, open, onFilter });
    this.byId = new Map();
    this.order = [];
    this.texts = new Map();
    this.selected = null;
    this.cursor = null;
    this.filters = el("div", { class: "filters", role: "group", "aria-label": "Status" },
      kind.filters.map(([status, label]) => el("button", {
        type: "button", class: "filter", "data-status": status, "aria-pressed": String(status === (query.status ?? "")),
        onclick: () => onFilter({ status }),
      }, label)));
    this.types = kind.types && el("select", {
      class: "types", "aria-label": "Type", onchange: () => onFilter({ type: this.types.value }),
    });
    this.offer([]);
    this.count = el("span", { class: "count" });
    this.viewport = el("div", { class: "list", tabindex: 0, role: "listbox", "aria-label": kind.label });
    this.empty = el("div", { class: "empty", hidden: true });
    main.replaceChildren(el("section", { class: "listing" },
      el("div", { class: "toolbar" }, this.filters, this.types, this.count), this.viewport, this.empty));
    this.rows = new Rows(this.viewport, {
      height: () => (matchMedia("(max-width: 720px)").matches ? 84 : 58),
      render: (item) => this.row(item),
      key: (item) => item[kind.id],
    });
    this.rows.ondraw = (last) => this.decorate(last);
    this.watch = new Watch(this.url(), { known, onState, onData: (page) => page && this.take(page) });
  }

  url(cursor = "") {
    const asked = new URLSearchParams({ limit: String(PAGE), ...this.kind.asked(this.query) });
    for (const name of ["status", "type"]) if (this.query[name]) asked.set(name, this.query[name]);
    if (cursor) asked.set("cursor", cursor);
    return `${this.kind.path}?${asked}`;
  }

  take(page, { older = false } = {}) {
    const { id, time, noun, items } = this.kind;
    const first = this.byId.size === 0;
    this.offer(page[this.kind.types] ?? []);
    if (!older) this.forget(page);
    for (const item of page[items]) {
      const text = JSON.stringify(item);
      if (this.texts.get(item[id]) === text && this.byId.has(item[id])) continue;
      item.fresh = !first && !older && !this.byId.has(item[id]);
      this.texts.set(item[id], text);
      this.byId.set(item[id], item);
    }
    if (older || first || !page.next_cursor) this.cursor = page.next_cursor;
    this.order = [...this.byId.values()].sort((a, b) => (a[time] < b[time] ? 1 : a[time] > b[time] ? -1 : 0));
    this.kind.measure?.(this.order);
    this.count.textContent = `${this.order.length}${this.cursor ? "+" : ""} ${noun}${this.order.length === 1 ? "" : "s"}`;
    this.rows.set(this.order);
    this.showEmpty();
  }

  // The chosen one stays to choose from, even where no task of it is left.
  offer(types) {
    if (!this.types || (this.offered && String(types) === String(this.offered))) return;
    this.offered = types;
    const chosen = this.query.type ?? "";
    const every = chosen && !types.includes(chosen) ? [...types, chosen] : types;
    this.types.replaceChildren(el("option", { value: "" }, "All types"),
      ...every.map((type) => el("option", { value: type, selected: type === chosen }, type)));
  }

  // What the first page should still hold but does not was evicted, or matches no more.
  forget(page) {
    const { id, time, items } = this.kind;
    const kept = new Set(page[items].map((item) => item[id]));
    const since = page.next_cursor ? page[items].at(-1)[time] : "";
    for (const [key, item] of this.byId) if (item[time] > since && !kept.has(key)) this.byId.delete(key);
  }

  async more() {
    if (!this.cursor || this.loading) return;
    this.loading = true;
    try {
      const response = await fetch(this.url(this.cursor), { cache: "no-store" });
      if (response.ok) this.take(await response.json(), { older: true });
    } catch (error) {
      if (!(error instanceof TypeError)) throw error; // gone: the watch says so
    } finally {
      this.loading = false;
    }
  }

  decorate(last) {
    for (const { item, node } of this.rows.shown.values()) {
      const current = item[this.kind.id] === this.selected;
      node.classList.toggle("selected", current);
      node.setAttribute("aria-selected", String(current));
    }
    if (last >= this.order.length - 20) this.more();
  }

  row(item) {
    const id = item[this.kind.id];
    const node = el("a", { role: "option", id: `t-${id}`, href: this.kind.address(id) });
    this.kind.row(node, item);
    if (item.fresh) {
      node.classList.add("fresh");
      setTimeout(() => { item.fresh = false; node.classList.remove("fresh"); }, FRESH_MS);
    }
    return node;
  }

  showEmpty() {
    this.empty.hidden = this.order.length > 0;
    this.viewport.hidden = this.order.length === 0;
    if (this.order.length) return;
    const filtered = this.query.q || this.query.status || this.query.type;
    this.empty.replaceChildren(...(filtered
      ? [el("h2", {}, `No ${this.kind.noun} matches`), el("p", {}, "Ids are matched from their beginning, names anywhere.")]
      : this.kind.waiting()));
  }

  key(name) {
    const step = { j: 1, ArrowDown: 1, k: -1, ArrowUp: -1 }[name];
    if (step && this.order.length) {
      const at = this.order.findIndex((item) => item[this.kind.id] === this.selected);
      const next = Math.min(this.order.length - 1, Math.max(0, at + step));
      this.selected = this.order[next][this.kind.id];
      this.rows.reveal(next);
      this.viewport.setAttribute("aria-activedescendant", `t-${this.selected}`);
      return true;
    }
    if (name === "Enter" && this.selected) {
      this.open(this.kind.address(this.selected));
      return true;
    }
    return false;
  }

  stop() {
    this.watch.stop();
    this.rows.dispose();
  }
}

// The ids under a row's name: a short one of its own, and those that it is found by.
export function idLine(own, named) {
  return el("span", { class: "ids" },
    el("span", { class: "id", title: own }, own.slice(0, 8)),
    named.filter(([, value]) => value).map(([name, value]) =>
      el("span", { class: "id", title: value }, el("i", {}, name), value)));
}
