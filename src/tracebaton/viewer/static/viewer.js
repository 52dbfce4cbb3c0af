// The page: which view the address asks for, the search box, the keys.
//   #/?q=text&status=failed       the list of traces
//   #/trace/<trace id>/<span id>  one trace, one span of it
//   #/tasks?q=text&status=queued&type=report  the list of tasks
//   #/task/<task id>              one task

import { Listing } from "./listing.js";
import { TaskView } from "./task.js";
import { tasks } from "./tasks.js";
import { traces } from "./traces.js";
import { TraceView } from "./waterfall.js";

const main = document.getElementById("main");
const search = document.getElementById("search");
const live = document.getElementById("live");
const SEARCH_DELAY_MS = 150;
const TRACE = /^#\/trace\/([0-9a-f]{32})(?:\/([0-9a-f]{16}))?$/i;
const TASK = /^#\/task\/(.+)$/;
const TASKS = /^#\/tasks(\?|$)/;
const HOMES = { traces: "#/", tasks: "#/tasks" };
const HINTS = {
  traces: "Correlation id, user, task, trace id or name",
  tasks: "Task, type, correlation id, user or progress",
};

// The list of traces as the page itself brought it: asking for it would wait for this script.
let first = JSON.parse(document.getElementById("first").textContent);
let view = null;
let tab = "traces";
// The search and the status of each list, kept while the other one is looked at.
const kept = { traces: { q: "", status: "" }, tasks: { q: "", status: "", type: "" } };

function route() {
  const trace = TRACE.exec(location.hash);
  const task = TASK.exec(location.hash);
  if (trace && view instanceof TraceView && view.traceId === trace[1].toLowerCase()) {
    if (view.trace) view.go(trace[2] ?? null);
    return;
  }
  view?.stop();
  show(trace ? "trace" : task ? "task" : "list", task || TASKS.test(location.hash) ? "tasks" : "traces");
  if (trace) {
    view = new TraceView(main, {
      traceId: trace[1].toLowerCase(), spanId: trace[2]?.toLowerCase() ?? null, onState: setLive,
      select: (id) => history.replaceState(null, "", `#/trace/${trace[1]}${id ? `/${id}` : ""}`),
    });
  } else if (task) {
    view = new TaskView(main, { taskId: decoded(task[1]), onState: setLive, open });
  } else {
    const asked = new URLSearchParams(location.hash.split("?")[1] ?? "");
    for (const name of Object.keys(kept[tab])) kept[tab][name] = asked.get(name) ?? "";
    if (document.activeElement !== search) search.value = kept[tab].q;
    const known = tab === "traces" && !Object.values(kept.traces).some(Boolean) ? first : null;
    view = new Listing(main, tab === "tasks" ? tasks() : traces(), {
      query: { ...kept[tab] }, onState: setLive, onFilter: filter, open, known,
    });
  }
  first = null; // whatever is looked at later has changed by then
}

function show(kind, chosen) {
  tab = chosen;
  document.body.dataset.view = kind;
  search.placeholder = HINTS[tab];
  search.setAttribute("aria-label", `Search ${tab}`);
  for (const link of document.querySelectorAll(".tabs a")) {
    if (link.dataset.tab === tab) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
    link.blur(); // else Enter would follow it again, and not open what was chosen by j and k
  }
}

function open(address) {
  location.hash = address;
}

function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

function listAddress(of) {
  const asked = new URLSearchParams(Object.entries(kept[of]).filter(([, value]) => value));
  return `${HOMES[of]}${asked.size ? `?${asked}` : ""}`;
}

function filter(change) {
  kept[tab] = { ...kept[tab], ...change };
  history.replaceState(null, "", listAddress(tab));
  route();
}

function setLive(state) {
  if (live.dataset.state === state) return;
  live.dataset.state = state;
  live.textContent = state === "live" ? "live" : "viewer is away";
}

let typing = 0;
search.addEventListener("input", () => {
  clearTimeout(typing);
  typing = setTimeout(() => filter({ q: search.value.trim() }), SEARCH_DELAY_MS);
});

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target === search) {
    if (event.key !== "Escape" && event.key !== "Enter" && event.key !== "ArrowDown") return;
    search.blur();
    if (event.key !== "Escape") view.key("j");
    event.preventDefault();
    return;
  }
  if (event.key === "Enter" && event.target.closest?.("button, a, summary")) return;
  if (event.key === "/") {
    if (document.body.dataset.view !== "list") filter({});
    search.focus();
    search.select();
    event.preventDefault();
  } else if (event.key === "t") {
    open(listAddress(tab === "tasks" ? "traces" : "tasks"));
  } else if (view.key(event.key)) {
    event.preventDefault();
  } else if (event.key === "Escape") {
    if (document.body.dataset.view !== "list") filter({});
    else if (Object.values(kept[tab]).some(Boolean)) {
      search.value = "";
      filter(Object.fromEntries(Object.keys(kept[tab]).map((name) => [name, ""])));
    }
  }
});

document.getElementById("theme").addEventListener("click", () => {
  const dark = getComputedStyle(document.documentElement).colorScheme === "dark"
    || (!document.documentElement.dataset.theme && matchMedia("(prefers-color-scheme: dark)").matches);
  localStorage.setItem("theme", dark ? "light" : "dark");
  document.documentElement.dataset.theme = dark ? "light" : "dark";
});
addEventListener("hashchange", route);
route();
// After the view has asked for its data: the browser may open the storage for longer than that takes.
const theme = localStorage.getItem("theme");
if (theme) document.documentElement.dataset.theme = theme;
