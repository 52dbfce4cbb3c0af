// The page: which view the address asks for, the search box, the keys.
//   #/?q=text&status=failed      the list
//   #/trace/<trace id>/<span id>  one trace, one span of it

import { TraceList } from "./list.js";
import { TraceView } from "./waterfall.js";

const main = document.getElementById("main");
const search = document.getElementById("search");
const live = document.getElementById("live");
const SEARCH_DELAY_MS = 150;
const TRACE = /^#\/trace\/([0-9a-f]{32})(?:\/([0-9a-f]{16}))?$/i;

let view = null;
let filters = { q: "", status: "" };

function route() {
  const found = TRACE.exec(location.hash);
  if (found && view instanceof TraceView && view.traceId === found[1].toLowerCase()) {
    if (view.trace) view.go(found[2] ?? null);
    return;
  }
  view?.stop();
  document.body.dataset.view = found ? "trace" : "list";
  if (found) {
    view = new TraceView(main, {
      traceId: found[1].toLowerCase(), spanId: found[2]?.toLowerCase() ?? null, onState: setLive,
      select: (id) => history.replaceState(null, "", `#/trace/${found[1]}${id ? `/${id}` : ""}`),
    });
  } else {
    const asked = new URLSearchParams(location.hash.split("?")[1] ?? "");
    filters = { q: asked.get("q") ?? "", status: asked.get("status") ?? "" };
    if (document.activeElement !== search) search.value = filters.q;
    view = new TraceList(main, {
      query: filters, onState: setLive, onFilter: filter,
      open: (id) => { location.hash = `#/trace/${id}`; },
    });
  }
}

function filter(change) {
  filters = { ...filters, ...change };
  const asked = new URLSearchParams(Object.entries(filters).filter(([, value]) => value));
  history.replaceState(null, "", `#/${asked.size ? `?${asked}` : ""}`);
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
    if (document.body.dataset.view === "trace") filter({});
    search.focus();
    search.select();
    event.preventDefault();
  } else if (view.key(event.key)) {
    event.preventDefault();
  } else if (event.key === "Escape") {
    if (document.body.dataset.view === "trace") filter({});
    else if (filters.q || filters.status) {
      search.value = "";
      filter({ q: "", status: "" });
    }
  }
});

document.getElementById("theme").addEventListener("click", () => {
  const dark = getComputedStyle(document.documentElement).colorScheme === "dark"
    || (!document.documentElement.dataset.theme && matchMedia("(prefers-color-scheme: dark)").matches);
  localStorage.setItem("theme", dark ? "light" : "dark");
  document.documentElement.dataset.theme = dark ? "light" : "dark";
});
const theme = localStorage.getItem("theme");
if (theme) document.documentElement.dataset.theme = theme;

addEventListener("hashchange", route);
route();
