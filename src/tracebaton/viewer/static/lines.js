// Log lines, beside a span, a trace or a task.

import { duration, el } from "./dom.js";
import { text } from "./model.js";

const FIXED = new Set(["timestamp", "level", "event", "logger", "service", "trace_id", "span_id",
  "correlation_id", "user_id", "task_id", "attempt"]);
//: Lines drawn at once; the rest waits behind a button.
const LINES = 300;

// offsetOf: microseconds of a line after whatever it is counted from. opener: what a click on the
// line does, nothing where it leads nowhere.
export function logLines(lines, { all, showAll, offsetOf, opener = () => null }) {
  const shown = all ? lines : lines.slice(0, LINES);
  const drawn = shown.map((line) => {
    const fields = Object.entries(line).filter(([key, value]) => !FIXED.has(key) && value !== null);
    const open = opener(line);
    return el("div", {
      class: `line is-${line.level}${open ? " linked" : ""}`, onclick: open,
      title: `${line.timestamp} ${line.service} ${line.logger ?? ""}`,
    },
    el("span", { class: "at" }, offset(offsetOf(line))),
    el("span", { class: "level" }, line.level),
    el("span", { class: "said" }, el("b", {}, text(line.event)),
      fields.map(([key, value]) => [" ", el("span", { class: "field" }, el("i", {}, `${key}=`), text(value))])));
  });
  return [el("div", { class: "lines" }, drawn), lines.length > shown.length && el("button", {
    type: "button", class: "quiet", onclick: showAll,
  }, `Show all ${lines.length}`)];
}

function offset(us) {
  return `${us < 0 ? "−" : "+"}${duration(Math.abs(us))}`;
}
