// One task: how far it is, its attempts, its log lines, and the way into its trace.

import { Watch, badge, clock, copyable, duration, el } from "./dom.js";
import { logLines } from "./lines.js";
import { microseconds } from "./model.js";
import { progressBar } from "./tasks.js";

const RUNNING = new Set(["queued", "running"]);

export class TaskView {
  constructor(main, { taskId, onState, open }) {
    Object.assign(this, { taskId, onState, open, task: null, lines: new Map(), at: -1, all: false });
    this.head = el("div", { class: "trace-head" });
    this.note = el("div", { class: "empty" }, el("p", {}, "Loading…"));
    this.attempts = el("section", {});
    this.log = el("section", {});
    this.body = el("div", { class: "task-body", hidden: true }, this.attempts, this.log);
    main.replaceChildren(el("section", { class: "one" }, this.head, this.note, this.body));
    this.watches = [new Watch(`/api/tasks/${encodeURIComponent(taskId)}`, {
      onState, onData: (task, status) => this.take(task, status),
    })];
  }

  take(task, status) {
    if (!task) {
      if (this.task) return; // evicted while it was looked at: what is here stays
      this.note.replaceChildren(
        el("h2", {}, status === 404 ? "This task is not here" : `The viewer answered ${status}`),
        el("p", {}, "Nothing was heard of it, or it has been evicted. This page keeps looking."));
      return;
    }
    this.follow(task.traces);
    this.task = task;
    this.note.hidden = true;
    this.body.hidden = false;
    this.drawHead();
    this.drawAttempts();
    this.drawLines();
  }

  // A task that came back from the DLQ after long may go on in a trace of its own.
  follow(traces) {
    for (const traceId of traces) {
      if (this.lines.has(traceId)) continue;
      this.lines.set(traceId, []);
      this.watches.push(new Watch(`/api/traces/${traceId}/logs`, {
        onData: (data) => {
          this.lines.set(traceId, (data?.logs ?? []).filter((line) => line.task_id === this.taskId));
          this.drawLines();
        },
      }));
    }
  }

  drawHead() {
    const { task } = this;
    const fact = (name, ...content) => el("div", { class: "fact" }, el("dt", {}, name), el("dd", {}, ...content));
    const moment = (name, iso) => iso && fact(name, el("time", { datetime: iso, title: iso }, clock(iso)));
    const took = task.ended_at && microseconds(task.ended_at) - microseconds(task.created_at);
    document.title = `${task.type ?? task.task_id} · tracebaton`;
    this.head.replaceChildren(
      el("div", { class: "title" },
        el("a", { class: "back", href: "#/tasks", title: "All tasks (Esc)" }, "←"),
        el("h1", {}, task.type ?? "(no type)"),
        task.status && badge(task.status),
        task.attempt > 1 && badge(`attempt ${task.attempt}`, "refused"),
        el("a", { class: "to-trace", href: `#/trace/${task.trace_id}` }, "Open the trace →")),
      progressBar(task),
      el("dl", { class: "facts" },
        moment("Created", task.created_at), moment("Started", task.started_at), moment("Ended", task.ended_at),
        took > 0 && fact("Took", el("b", {}, duration(took))),
        fact("Task", copyable(task.task_id)),
        task.traces.length > 1
          ? fact(`Traces (${task.traces.length})`, el("ul", { class: "traces" }, [...task.traces].reverse().map((trace) =>
            el("li", {}, el("a", { href: `#/trace/${trace}` }, trace)))))
          : fact("Trace", copyable(task.trace_id)),
        task.correlation_id && task.correlation_id !== task.trace_id && fact("Correlation", copyable(task.correlation_id)),
        task.user_id && fact("User", copyable(task.user_id))));
  }

  drawAttempts() {
    const { attempts, status } = this.task;
    const waiting = attempts.length ? "The next attempt waits in the queue." : "It waits in the queue.";
    this.attempts.replaceChildren(
      el("h3", {}, `Attempts (${attempts.length})`),
      el("div", { class: "attempts" }, attempts.map((attempt, index) => this.attempt(attempt, index))),
      status === "queued" ? el("p", { class: "hint" }, waiting) : "");
  }

  attempt(attempt, index) {
    const why = [attempt.error_type, attempt.code, attempt.detail].filter(Boolean).join(" · ");
    return el("div", { class: `attempt${index === this.at ? " selected" : ""}`, "data-span-id": attempt.span_id },
      el("b", { class: "number" }, `#${attempt.number ?? "?"}`),
      badge(attempt.outcome ?? "ended"),
      el("time", { datetime: attempt.started_at, title: attempt.started_at }, clock(attempt.started_at)),
      el("span", { class: "waited" }, attempt.queue_ms ? `waited ${duration(attempt.queue_ms * 1000)}` : ""),
      el("span", { class: "took" }, attempt.duration_ms === null ? "" : `took ${duration(attempt.duration_ms * 1000)}`),
      el("a", { href: spanAddress(attempt) }, "in the waterfall"),
      why ? el("span", { class: "why" }, why) : "",
      attempt.sentry_event_id ? el("span", { class: "sentry" }, "Sentry event ", copyable(attempt.sentry_event_id)) : "");
  }

  drawLines() {
    if (!this.task) return;
    const begin = microseconds(this.task.created_at);
    const lines = [...this.lines.values()].flat().sort((a, b) => microseconds(a.timestamp) - microseconds(b.timestamp));
    this.log.replaceChildren(el("h3", {}, `Log lines (${lines.length})`), ...(lines.length
      ? logLines(lines, {
        all: this.all, showAll: () => { this.all = true; this.drawLines(); },
        offsetOf: (line) => microseconds(line.timestamp) - begin,
        opener: (line) => line.span_id && (() => this.open(spanAddress(line))),
      }).filter(Boolean)
      : [el("p", { class: "dim" }, RUNNING.has(this.task.status) ? "None so far." : "None.")]));
  }

  key(name) {
    const step = { j: 1, ArrowDown: 1, k: -1, ArrowUp: -1 }[name];
    const attempts = this.task?.attempts ?? [];
    if (step && attempts.length) {
      this.at = Math.min(attempts.length - 1, Math.max(0, this.at + step));
      this.drawAttempts();
      return true;
    }
    if (name === "Enter" && this.task) {
      this.open(attempts[this.at] ? spanAddress(attempts[this.at]) : `#/trace/${this.task.trace_id}`);
      return true;
    }
    return false;
  }

  stop() {
    this.watches.forEach((watch) => watch.stop());
    document.title = "tracebaton";
  }
}

function spanAddress({ trace_id: trace, span_id: span }) {
  return `#/trace/${trace}/${span}`;
}
