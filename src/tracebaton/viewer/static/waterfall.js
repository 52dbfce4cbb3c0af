// One trace: the tree of its spans on a common axis, time waited in a queue drawn as such.

import { Rows, Watch, badge, clock, copyable, duration, el, grouped, hue, serviceChip } from "./dom.js";
import { Details } from "./details.js";
import { buildTrace, rowsOf, text } from "./model.js";

const STEPS = [1, 2, 5].flatMap((step) => [0, 1, 2, 3, 4, 5, 6].map((power) => step * 10 ** power))
  .concat([30e6, 60e6, 120e6, 300e6, 600e6, 1800e6, 3600e6, 7200e6, 21600e6, 86400e6]).sort((a, b) => a - b);
//: Deeper spans keep this indent, so that a long chain leaves room for its names.
const MAX_INDENT = 16;
//: Pixels of a character of a label in a lane, and of the space around it.
const [CHARACTER, AROUND] = [7, 18];

export class TraceView {
  constructor(main, { traceId, spanId, onState, select }) {
    Object.assign(this, { traceId, selected: spanId, select, folded: new Set(), trace: null, lines: [], events: new Map() });
    this.head = el("div", { class: "trace-head" });
    this.axis = el("div", { class: "axis" });
    this.viewport = el("div", { class: "waterfall", tabindex: 0, role: "tree", "aria-label": "Spans" },
      el("div", { class: "axis-row" }, el("span", { class: "axis-name" }, "Span"), this.axis));
    this.details = new Details({ go: (id) => this.go(id), close: () => this.go(null) });
    this.body = el("div", { class: "trace-body" }, this.viewport, this.details.node);
    this.note = el("div", { class: "empty" }, el("p", {}, "Loading…"));
    main.replaceChildren(el("section", { class: "one" }, this.head, this.note, this.body));
    this.body.hidden = true;
    this.rows = new Rows(this.viewport, {
      height: () => (matchMedia("(max-width: 720px)").matches ? 48 : 30),
      render: (span) => this.row(span),
      key: (span) => span.id,
    });
    this.rows.ondraw = () => this.decorate();
    const path = `/api/traces/${traceId}`;
    this.watches = [
      new Watch(path, { onState, onData: (data, status) => this.take(data, status) }),
      new Watch(`${path}/logs`, { onState, onData: (data) => this.takeLines(data?.logs ?? []) }),
    ];
  }

  take(otlp, status) {
    if (!otlp) {
      if (this.trace) return; // evicted while it was looked at: what is here stays
      this.note.replaceChildren(
        el("h2", {}, status === 404 ? "This trace is not here" : `The viewer answered ${status}`),
        el("p", {}, "It was never sent here, has been evicted, or is still on its way. This page keeps looking."));
      return;
    }
    const first = !this.trace;
    this.trace = buildTrace(otlp);
    this.note.hidden = true;
    this.body.hidden = false;
    [...this.trace.services].sort().forEach(hue); // the list gives colours in this order too
    this.drawHead();
    this.drawAxis();
    this.refresh();
    this.details.show(this.trace, this.lines, this.current());
    if (first && this.selected) this.rows.reveal(Math.max(0, this.visible.findIndex((span) => span.id === this.selected)));
  }

  takeLines(lines) {
    this.lines = lines;
    this.markEvents();
    if (this.trace) this.details.show(this.trace, this.lines, this.current());
  }

  // Which spans have an event in Sentry; a row that has one from now on is drawn again.
  markEvents() {
    for (const { span_id: id, sentry_event_id: event } of this.lines) {
      if (!event || this.events.get(id) === event) continue;
      this.events.set(id, event);
      this.rows.forget(id);
    }
    if (this.trace) this.refresh();
  }

  current() {
    return this.trace?.byId.get(this.selected) ?? null;
  }

  refresh() {
    this.visible = rowsOf(this.trace, this.folded);
    this.rows.set(this.visible);
  }

  drawHead() {
    const { spans, services, total } = this.trace;
    const value = (key) => text(spans.find((span) => span.attributes.has(key))?.attributes.get(key));
    const failed = spans.filter((span) => span.failed).length;
    const waited = spans.reduce((sum, span) => sum + (span.wait?.us ?? 0), 0);
    const title = spans.find((span) => !span.parentId) ?? spans[0];
    const started = new Date(Number(this.trace.zero / 1_000_000n)).toISOString();
    const status = [...spans].sort((a, b) => b.end - a.end)
      .map((span) => text(span.attributes.get("tracebaton.task.status"))).find(Boolean);
    const fact = (name, ...content) => el("div", { class: "fact" }, el("dt", {}, name), el("dd", {}, ...content));
    const id = (name, key) => value(key) && fact(name, copyable(value(key)));
    document.title = `${title.name} · tracebaton`;
    this.head.replaceChildren(
      el("div", { class: "title" },
        el("a", { class: "back", href: "#/", title: "All traces (Esc)" }, "←"),
        el("h1", {}, title.name || "(no name)"),
        value("tracebaton.task.type") && badge(value("tracebaton.task.type"), "type"),
        status && badge(status),
        failed > 0 && badge(`${failed} error${failed === 1 ? "" : "s"}`, "failed"),
        el("span", { class: "legend" }, services.map(serviceChip))),
      el("dl", { class: "facts" },
        fact("Duration", el("b", {}, duration(total))),
        waited > 0 && fact("Waited in queue", el("b", { class: "waited" }, duration(waited))),
        fact("Started", el("time", { datetime: started, title: started }, clock(started))),
        fact("Spans", grouped(spans.length)),
        fact("Trace", copyable(this.traceId)),
        value("tracebaton.correlation_id") !== this.traceId && id("Correlation", "tracebaton.correlation_id"),
        id("User", "tracebaton.user_id"),
        id("Task", "tracebaton.task.id")));
  }

  drawAxis() {
    const { total, begin } = this.trace;
    const most = Math.max(2, Math.min(7, this.viewport.clientWidth / 110));
    const step = STEPS.find((candidate) => total / candidate <= most) ?? total / most;
    this.lineStep = step / total;
    this.viewport.style.setProperty("--step", `${100 * this.lineStep}%`);
    const ticks = [];
    for (let at = 0; at < total * 0.97; at += step) {
      const tick = el("span", { class: "tick" }, at === 0 ? "0" : duration(at + begin));
      tick.style.left = `${(100 * at) / total}%`;
      ticks.push(tick);
    }
    this.axis.replaceChildren(...ticks);
    this.lane = this.axis.clientWidth;
  }

  share(us) {
    return (us - this.trace.begin) / this.trace.total;
  }

  row(span) {
    const indent = Math.min(span.depth, MAX_INDENT);
    const fold = span.children.length
      ? el("button", { class: "fold", type: "button", tabindex: -1, "aria-label": "Fold", onclick: (event) => { event.stopPropagation(); this.fold(span); } },
        this.folded.has(span.id) ? "▸" : "▾")
      : el("span", { class: "fold" });
    const name = el("span", { class: "span-name" }, fold, el("i", { class: "dot" }),
      el("span", { class: "label", title: `${span.service}: ${span.name}` }, span.name || "(no name)"),
      this.folded.has(span.id) && el("span", { class: "more" }, `+${below(span)}`),
      span.orphan && badge("parent missing", "orphan"),
      span.delivery && badge(span.delivery, span.delivery.startsWith("attempt") ? "attempt" : "redrive"),
      this.events.has(span.id) && sentryMark(this.events.get(span.id)),
      span.failed && el("span", { class: "cross", title: "Failed" }, "✕"));
    name.style.setProperty("--indent", indent);
    const node = el("div", {
      class: `span${span.failed ? " failed" : ""}`, role: "treeitem", "data-span-id": span.id,
      "aria-level": span.depth + 1, onclick: () => this.go(span.id),
    }, name, el("span", { class: "lane" }, ...this.bars(span)));
    node.style.setProperty("--hue", hue(span.service));
    return node;
  }

  bars(span) {
    const [from, to] = [this.share(span.start), this.share(span.end)];
    const bar = el("span", { class: "bar", title: `${span.name}: ${duration(span.duration)}` });
    place(bar, from, to);
    const parts = [bar];
    const took = duration(span.duration);
    let words = [took];
    if (span.wait) {
      const [waitFrom, waitTo] = [this.share(span.wait.from), from];
      const said = `waited ${duration(span.wait.us)}`;
      const fitting = [`${said} in queue`, said].find((text) => this.fits(text, waitTo - waitFrom));
      const wait = el("span", { class: "wait", title: waitTitle(span.wait) });
      place(wait, waitFrom, waitTo);
      if (fitting) wait.append(el("span", { class: "wait-label" }, fitting));
      else words = [`${took} · ${said} in queue`, `${took} · ${said}`, took];
      parts.unshift(wait);
    }
    for (const event of span.events) {
      const tick = el("i", { class: event.name === "exception" ? "event bad" : "event", title: event.name });
      tick.style.left = `${100 * Math.min(1, Math.max(0, this.share(event.at)))}%`;
      parts.push(tick);
    }
    return [...parts, this.label(words, { from, to, free: span.wait ? this.share(span.wait.from) : from })];
  }

  fits(text, share) {
    return text.length * CHARACTER + AROUND <= share * this.lane;
  }

  // The first of *words* that fits behind the bar, before it or in it, and there.
  label(words, { from, to, free }) {
    const rooms = [["after", 1 - to], ["before", free], ["inside", to - from]];
    const text = words.find((one) => rooms.some(([, room]) => this.fits(one, room))) ?? words.at(-1);
    const [where] = rooms.find(([, room]) => this.fits(text, room)) ?? rooms.reduce((a, b) => (b[1] > a[1] ? b : a));
    const node = el("span", { class: `took ${where}` }, text);
    if (where === "before") node.style.right = `${100 * (1 - free)}%`;
    else node.style.left = `${100 * (where === "after" ? to : from)}%`;
    return node;
  }

  decorate() {
    for (const { item, node } of this.rows.shown.values()) {
      node.classList.toggle("selected", item.id === this.selected);
      node.setAttribute("aria-selected", String(item.id === this.selected));
    }
  }

  fold(span, shut = !this.folded.has(span.id)) {
    if (shut) this.folded.add(span.id);
    else this.folded.delete(span.id);
    this.rows.forget(span.id);
    this.refresh();
  }

  go(id) {
    this.selected = id;
    this.select(id);
    for (let parent = this.trace.byId.get(id); parent; parent = parent.orphan ? null : this.trace.byId.get(parent.parentId)) {
      if (parent.id !== id && this.folded.has(parent.id)) this.fold(parent, false);
    }
    const index = this.visible.findIndex((span) => span.id === id);
    if (index >= 0) this.rows.reveal(index);
    this.decorate();
    this.details.show(this.trace, this.lines, this.current());
  }

  key(name) {
    if (!this.trace) return false;
    const at = this.visible.findIndex((span) => span.id === this.selected);
    const step = { j: 1, ArrowDown: 1, k: -1, ArrowUp: -1 }[name];
    if (step) {
      this.go(this.visible[Math.min(this.visible.length - 1, Math.max(0, at + step))].id);
      return true;
    }
    if (name === "e") {
      const all = this.trace.spans;
      const start = all.findIndex((span) => span.id === this.selected) + 1;
      const next = [...all.slice(start), ...all.slice(0, start)].find((span) => span.failed);
      if (next) this.go(next.id);
      return true;
    }
    const current = this.current();
    if (current?.children.length && ["h", "l", "ArrowLeft", "ArrowRight", "Enter"].includes(name)) {
      this.fold(current, name === "Enter" ? undefined : ["h", "ArrowLeft"].includes(name));
      return true;
    }
    if (name === "Escape" && this.selected) {
      this.go(null);
      return true;
    }
    return false;
  }

  stop() {
    this.watches.forEach((watch) => watch.stop());
    this.rows.dispose();
    document.title = "tracebaton";
  }
}

function place(node, from, to) {
  node.style.left = `${100 * from}%`;
  node.style.width = `${100 * Math.max(0, to - from)}%`;
}

function sentryMark(event) {
  const mark = badge(`Sentry ${text(event).slice(0, 8)}`, "sentry");
  mark.title = `Sentry event ${text(event)}`;
  return mark;
}

function below(span) {
  let count = 0;
  const stack = [...span.children];
  while (stack.length) {
    count++;
    stack.push(...stack.pop().children);
  }
  return count;
}

function waitTitle(wait) {
  const parts = wait.parts.map((part) => `${part.name} ${duration(part.us)}`).join(", ");
  return `Waited ${duration(wait.us)} in the queue${parts ? `: ${parts}` : ""}`;
}
