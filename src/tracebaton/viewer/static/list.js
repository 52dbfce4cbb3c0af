// The list of traces: newest first, filling while you look.

import { Rows, Watch, badge, clock, duration, el, serviceChip } from "./dom.js";

const FILTERS = [
  ["", "All"], ["error", "Errors"], ["queued", "Queued"], ["running", "Running"],
  ["succeeded", "Succeeded"], ["failed", "Failed"], ["dead", "Dead"],
];
const PAGE = 100;
const FRESH_MS = 1600;
const IDS = /^(correlation|user|task):(.+)$/;

export class TraceList {
  constructor(main, { query, open, onState, onFilter }) {
    Object.assign(this, { query, open, onFilter });
    this.byId = new Map();
    this.order = [];
    this.texts = new Map();
    this.selected = null;
    this.cursor = null;
    this.filters = el("div", { class: "filters", role: "group", "aria-label": "Status" },
      FILTERS.map(([status, label]) => el("button", {
        type: "button", class: "filter", "data-status": status, "aria-pressed": String(status === (query.status ?? "")),
        onclick: () => onFilter({ status }),
      }, label)));
    this.count = el("span", { class: "count" });
    this.viewport = el("div", { class: "list", tabindex: 0, role: "listbox", "aria-label": "Traces" });
    this.empty = el("div", { class: "empty", hidden: true });
    main.replaceChildren(el("section", { class: "traces" },
      el("div", { class: "toolbar" }, this.filters, this.count), this.viewport, this.empty));
    this.rows = new Rows(this.viewport, {
      height: () => (matchMedia("(max-width: 720px)").matches ? 84 : 58),
      render: (item) => this.row(item),
      key: (item) => item.trace_id,
    });
    this.rows.ondraw = (last) => this.decorate(last);
    this.watch = new Watch(this.url(), { onState, onData: (page) => page && this.take(page) });
  }

  url(cursor = "") {
    const asked = new URLSearchParams({ limit: String(PAGE) });
    const special = IDS.exec(this.query.q ?? "");
    if (special) asked.set({ correlation: "correlation_id", user: "user_id", task: "task_id" }[special[1]], special[2]);
    else if (this.query.q) asked.set("q", this.query.q);
    if (this.query.status) asked.set("status", this.query.status);
    if (cursor) asked.set("cursor", cursor);
    return `/api/traces?${asked}`;
  }

  take(page, { older = false } = {}) {
    const first = this.byId.size === 0;
    if (!older) this.forget(page);
    for (const trace of page.traces) {
      const text = JSON.stringify(trace);
      if (this.texts.get(trace.trace_id) === text && this.byId.has(trace.trace_id)) continue;
      trace.fresh = !first && !older && !this.byId.has(trace.trace_id);
      this.texts.set(trace.trace_id, text);
      this.byId.set(trace.trace_id, trace);
    }
    if (older || first || !page.next_cursor) this.cursor = page.next_cursor;
    this.order = [...this.byId.values()].sort((a, b) => (a.start < b.start ? 1 : a.start > b.start ? -1 : 0));
    this.longest = this.order.reduce((most, trace) => Math.max(most, trace.duration_ms), 0.001);
    this.count.textContent = `${this.order.length}${this.cursor ? "+" : ""} trace${this.order.length === 1 ? "" : "s"}`;
    this.rows.set(this.order);
    this.showEmpty();
  }

  // What the first page should still hold but does not was evicted, or matches no more.
  forget(page) {
    const kept = new Set(page.traces.map((trace) => trace.trace_id));
    const since = page.next_cursor ? page.traces.at(-1).start : "";
    for (const [id, trace] of this.byId) if (trace.start > since && !kept.has(id)) this.byId.delete(id);
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
      const current = item.trace_id === this.selected;
      node.classList.toggle("selected", current);
      node.setAttribute("aria-selected", String(current));
    }
    if (last >= this.order.length - 20) this.more();
  }

  row(trace) {
    const ids = [
      trace.correlation_id && trace.correlation_id !== trace.trace_id && ["correlation", trace.correlation_id],
      trace.user_id && ["user", trace.user_id],
      trace.task_id && ["task", trace.task_id],
    ].filter(Boolean);
    const bar = el("span", { class: "bar" });
    bar.style.width = `${Math.max(1.5, (100 * trace.duration_ms) / this.longest)}%`;
    const node = el("a", {
      class: `trace${trace.error ? " failed" : ""}`, role: "option", id: `t-${trace.trace_id}`,
      href: `#/trace/${trace.trace_id}`, "data-trace-id": trace.trace_id,
    },
    el("span", { class: "mark", title: trace.error ? "A span failed" : "No span failed" }, trace.error ? "✕" : ""),
    el("span", { class: "what" },
      el("span", { class: "name" }, trace.name || "(no name)"),
      trace.task_type && badge(trace.task_type, "type"),
      trace.task_status && badge(trace.task_status),
      trace.http_status >= 400 && badge(String(trace.http_status), trace.http_status < 500 ? "refused" : "failed"),
      trace.root_missing && badge("root missing", "orphan"),
      trace.tasks > 1 && badge(`${trace.tasks} tasks`, "type")),
    el("span", { class: "ids" },
      el("span", { class: "id", title: `trace ${trace.trace_id}` }, trace.trace_id.slice(0, 8)),
      ids.map(([name, value]) => el("span", { class: "id", title: value }, el("i", {}, name), value))),
    el("span", { class: "services" }, trace.services.map(serviceChip)),
    el("span", { class: "took" }, el("b", {}, duration(trace.duration_ms * 1000)), el("span", { class: "track" }, bar)),
    el("span", { class: "when" },
      el("time", { datetime: trace.start, title: trace.start }, clock(trace.start)),
      el("span", { class: "spans" }, `${trace.spans.toLocaleString()} span${trace.spans === 1 ? "" : "s"}`)));
    if (trace.fresh) {
      node.classList.add("fresh");
      setTimeout(() => { trace.fresh = false; node.classList.remove("fresh"); }, FRESH_MS);
    }
    return node;
  }

  showEmpty() {
    this.empty.hidden = this.order.length > 0;
    this.viewport.hidden = this.order.length === 0;
    if (this.order.length) return;
    const filtered = this.query.q || this.query.status;
    this.empty.replaceChildren(...(filtered
      ? [el("h2", {}, "No trace matches"), el("p", {}, "Ids are matched from their beginning, names anywhere.")]
      : [el("h2", {}, "Waiting for the first trace"),
        el("p", {}, "Any OTLP/HTTP exporter can feed this page:"),
        el("pre", {}, `OTEL_EXPORTER_OTLP_ENDPOINT=${location.origin}`)]));
  }

  key(name) {
    const step = { j: 1, ArrowDown: 1, k: -1, ArrowUp: -1 }[name];
    if (step && this.order.length) {
      const at = this.order.findIndex((trace) => trace.trace_id === this.selected);
      const next = Math.min(this.order.length - 1, Math.max(0, at + step));
      this.selected = this.order[next].trace_id;
      this.rows.reveal(next);
      this.viewport.setAttribute("aria-activedescendant", `t-${this.selected}`);
      return true;
    }
    if (name === "Enter" && this.selected) {
      this.open(this.selected);
      return true;
    }
    return false;
  }

  stop() {
    this.watch.stop();
    this.rows.dispose();
  }
}
