// What stands beside the waterfall: the chosen span, or the whole trace's errors and log lines.

import { badge, copyable, duration, el, serviceChip } from "./dom.js";
import { logLines } from "./lines.js";
import { lineOffset, text } from "./model.js";

export class Details {
  constructor({ go, close }) {
    Object.assign(this, { go, close, all: false });
    this.node = el("aside", { class: "details", "aria-label": "Details" });
  }

  show(trace, lines, span) {
    const same = this.shown === (span?.id ?? null);
    const top = same ? this.node.scrollTop : 0;
    if (!same) this.all = false;
    this.shown = span?.id ?? null;
    this.node.classList.toggle("has-span", Boolean(span));
    this.node.replaceChildren(...(span ? this.span(trace, lines, span) : this.trace(trace, lines)).filter(Boolean));
    this.node.scrollTop = top;
  }

  trace(trace, lines) {
    const failed = trace.spans.filter((span) => span.failed);
    return [
      failed.length > 0 && section("Errors", failed.slice(0, 50).map((span) => el("button", {
        class: "error-link", type: "button", onclick: () => this.go(span.id),
      }, el("b", {}, span.name), el("span", {}, failure(span))))),
      section(`Log lines (${lines.length})`, this.lines(trace, lines, { linked: true })),
    ];
  }

  span(trace, lines, span) {
    const own = lines.filter((line) => line.span_id === span.id);
    const sentry = own.find((line) => line.sentry_event_id)?.sentry_event_id;
    return [
      el("div", { class: "details-head" },
        el("h2", {}, span.name || "(no name)"),
        el("button", { class: "quiet", type: "button", "aria-label": "Close", onclick: this.close }, "✕")),
      el("p", { class: "summary" }, serviceChip(span.service), badge(span.kind, "type"),
        el("b", {}, duration(span.duration)), el("span", { class: "dim" }, `from ${duration(Math.max(0, span.start))}`)),
      span.orphan && el("p", { class: "hint" }, `Parent missing: span ${span.parentId} is not here. It has not ended yet, was not sampled, or belongs to another system.`),
      sentry && el("p", { class: "hint" }, "Sentry event ", copyable(text(sentry))),
      span.failed && !span.exceptions.length && el("p", { class: "failure" }, failure(span)),
      ...span.exceptions.map((event) => exception(event)),
      span.wait && section(`Waited ${duration(span.wait.us)} in the queue`, waitBar(span.wait)),
      section("Attributes", table(span.attributes)),
      own.length > 0 && section(`Log lines (${own.length})`, this.lines(trace, own)),
      span.events.length > span.exceptions.length && section("Events",
        span.events.filter((event) => event.name !== "exception").map((event) => el("div", { class: "entry" },
          el("p", {}, el("b", {}, event.name), el("span", { class: "dim" }, ` at ${duration(Math.max(0, event.at))}`)), table(event.attributes)))),
      span.links.length > 0 && section("Links", span.links.map((link) => this.link(trace, span, link))),
      fold("Resource", table(span.resource)),
      fold("Span", table(new Map([
        ["span id", span.id], ["parent id", span.parentId || "none: this is a root"], ["trace id", span.traceId],
        ["scope", [span.scope.name, span.scope.version].filter(Boolean).join(" ")],
        ["started", `${span.startNs} ns`],
      ]))),
    ];
  }

  link(trace, span, link) {
    const here = link.traceId === span.traceId && trace.byId.get(link.spanId);
    const name = here ? here.name : `${link.traceId.slice(0, 8)}… / ${link.spanId}`;
    return el("div", { class: "entry" },
      link.relation && el("span", { class: "relation" }, `${link.relation} `),
      el("a", { href: `#/trace/${link.traceId}/${link.spanId}` }, name), table(link.attributes));
  }

  lines(trace, lines, { linked = false } = {}) {
    if (!lines.length) return el("p", { class: "dim" }, "No line carries this trace's id.");
    return logLines(lines, {
      all: this.all,
      showAll: () => { this.all = true; this.show(trace, lines, trace.byId.get(this.shown)); },
      offsetOf: (line) => lineOffset(line, trace),
      opener: (line) => linked && trace.byId.has(line.span_id) && (() => this.go(line.span_id)),
    });
  }
}

function failure(span) {
  const [event] = span.exceptions;
  const said = event ? [event.attributes.get("exception.type"), event.attributes.get("exception.message")].map(text).filter(Boolean).join(": ") : "";
  return said || span.statusMessage || text(span.attributes.get("error.type")) || "failed";
}

function exception(event) {
  const stack = text(event.attributes.get("exception.stacktrace"));
  return section("Exception",
    el("p", { class: "failure" }, el("b", {}, text(event.attributes.get("exception.type"))), " ", text(event.attributes.get("exception.message"))),
    stack && el("pre", { class: "stack" }, stack));
}

function waitBar(wait) {
  const parts = wait.parts.length ? wait.parts : [{ name: "waited", us: wait.us }];
  const names = { backoff: "until the retry", delay: "delay asked for", backlog: "waiting for a worker", prefetch: "held by the worker", waited: "waited" };
  return [
    el("div", { class: "split" }, parts.map((part) => {
      const piece = el("span", { class: `part is-${part.name}` });
      piece.style.flexGrow = part.us;
      return piece;
    })),
    el("ul", { class: "split-legend" }, parts.map((part) => el("li", {},
      el("i", { class: `part is-${part.name}` }), names[part.name], el("b", {}, duration(part.us))))),
  ];
}

function table(values) {
  const entries = [...values].filter(([, value]) => value !== "" && value !== null);
  if (!entries.length) return el("p", { class: "dim" }, "None.");
  return el("dl", { class: "table" }, entries.map(([key, value]) => [el("dt", {}, key), el("dd", {}, text(value))]));
}

function section(title, ...content) {
  return el("section", {}, el("h3", {}, title), content);
}

function fold(title, ...content) {
  return el("details", {}, el("summary", {}, title), ...content);
}
