// The list of traces.

import { badge, clock, duration, el, grouped, serviceChip } from "./dom.js";
import { idLine } from "./listing.js";

const IDS = /^(correlation|user|task):(.+)$/;
const PARAMETERS = { correlation: "correlation_id", user: "user_id", task: "task_id" };

export function traces() {
  let longest = 0.001;
  return {
    path: "/api/traces", items: "traces", id: "trace_id", time: "start", noun: "trace", label: "Traces",
    filters: [
      ["", "All"], ["error", "Errors"], ["queued", "Queued"], ["running", "Running"],
      ["succeeded", "Succeeded"], ["failed", "Failed"], ["dead", "Dead"],
    ],
    address: (id) => `#/trace/${id}`,
    asked: ({ q }) => {
      const special = IDS.exec(q);
      if (special) return { [PARAMETERS[special[1]]]: special[2] };
      return q ? { q } : {};
    },
    measure: (order) => { longest = order.reduce((most, trace) => Math.max(most, trace.duration_ms), 0.001); },
    row: (node, trace) => draw(node, trace, longest),
    waiting: () => [
      el("h2", {}, "Waiting for the first trace"),
      el("p", {}, "Any OTLP/HTTP exporter can feed this page:"),
      el("pre", {}, `OTEL_EXPORTER_OTLP_ENDPOINT=${location.origin}`)],
  };
}

function draw(node, trace, longest) {
  node.className = `trace${trace.error ? " failed" : ""}`;
  node.dataset.traceId = trace.trace_id;
  const bar = el("span", { class: "bar" });
  bar.style.width = `${Math.max(1.5, (100 * trace.duration_ms) / longest)}%`;
  const correlation = trace.correlation_id !== trace.trace_id && trace.correlation_id;
  node.append(
    el("span", { class: "mark", title: trace.error ? "A span failed" : "No span failed" }, trace.error ? "✕" : ""),
    el("span", { class: "what" },
      el("span", { class: "name" }, trace.name || "(no name)"),
      trace.task_type ? badge(trace.task_type, "type") : "",
      trace.task_status ? badge(trace.task_status) : "",
      trace.http_status >= 400 ? badge(String(trace.http_status), trace.http_status < 500 ? "refused" : "failed") : "",
      trace.root_missing ? badge("root missing", "orphan") : "",
      trace.tasks > 1 ? badge(`${trace.tasks} tasks`, "type") : ""),
    idLine(trace.trace_id, [["correlation", correlation], ["user", trace.user_id], ["task", trace.task_id]]),
    el("span", { class: "services" }, trace.services.map(serviceChip)),
    el("span", { class: "took" }, el("b", {}, duration(trace.duration_ms * 1000)), el("span", { class: "track" }, bar)),
    el("span", { class: "when" },
      el("time", { datetime: trace.start, title: trace.start }, clock(trace.start)),
      el("span", { class: "spans" }, `${grouped(trace.spans)} span${trace.spans === 1 ? "" : "s"}`)));
}
