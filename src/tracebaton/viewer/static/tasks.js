// The list of tasks, each with how far it is.

import { badge, clock, el } from "./dom.js";
import { idLine } from "./listing.js";

export function tasks() {
  return {
    path: "/api/tasks", items: "tasks", id: "task_id", time: "created_at", noun: "task", label: "Tasks", types: "types",
    filters: [
      ["", "All"], ["queued", "Queued"], ["running", "Running"], ["succeeded", "Succeeded"],
      ["failed", "Failed"], ["dead", "Dead"], ["cancelled", "Cancelled"],
    ],
    address: (id) => `#/task/${encodeURIComponent(id)}`,
    asked: ({ q }) => (q ? { q } : {}),
    row: draw,
    waiting: () => [
      el("h2", {}, "Waiting for the first task"),
      el("p", {}, "A task is here as soon as one of its log lines or spans is.")],
  };
}

function draw(node, task) {
  node.className = `task is-${task.status ?? "unknown"}`;
  node.dataset.taskId = task.task_id;
  const correlation = task.correlation_id !== task.trace_id && task.correlation_id;
  node.append(
    el("span", { class: "mark" }),
    el("span", { class: "what" },
      el("span", { class: "name" }, task.type ?? "(no type)"),
      task.status ? badge(task.status) : "",
      task.attempt > 1 ? badge(`attempt ${task.attempt}`, "refused") : ""),
    idLine(task.task_id, [["correlation", correlation], ["user", task.user_id], ["trace", task.trace_id]]),
    progressBar(task),
    el("span", { class: "when" }, el("time", { datetime: task.created_at, title: task.created_at }, clock(task.created_at))));
}

// Nothing is known of the progress of most tasks: those show a bar only when they have succeeded.
export function progressBar(task) {
  const percent = task.status === "succeeded" ? 100 : task.progress;
  const fill = el("span", { class: "fill" });
  fill.style.width = `${percent ?? 0}%`;
  return el("span", { class: `progress is-${task.status ?? "unknown"}` },
    el("span", { class: "said" },
      el("b", {}, percent === null ? "" : `${percent} %`), el("span", { class: "message" }, task.message ?? "")),
    el("span", {
      class: "track", role: "progressbar", "aria-label": "Progress",
      "aria-valuemin": 0, "aria-valuemax": 100, "aria-valuenow": percent,
    }, fill));
}
