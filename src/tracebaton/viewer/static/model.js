// A trace as OTLP JSON becomes a tree whose times are microseconds since the trace began.
// Nanoseconds since 1970 are beyond 2^53, so they are subtracted as BigInt before they are numbers.

const PRODUCER = 4, CONSUMER = 5;
const KINDS = ["unspecified", "internal", "server", "client", "producer", "consumer"];
const ERROR = 2;
const TASK = "tracebaton.task.id";
const RECEIVES = "tracebaton.message.receive_count";
const QUEUE = {
  delay: "tracebaton.queue.delay_ms",
  backlog: "tracebaton.queue.backlog_ms",
  prefetch: "tracebaton.queue.prefetch_ms",
};

export function buildTrace(otlp) {
  const spans = [...flatten(otlp)];
  const zero = spans.reduce((least, span) => (span.startNs < least ? span.startNs : least), spans[0].startNs);
  for (const span of spans) {
    span.start = micros(span.startNs - zero);
    span.end = Math.max(span.start, micros(span.endNs - zero));
    span.duration = span.end - span.start;
    for (const event of span.events) event.at = micros(event.timeNs - zero);
  }
  const byId = new Map(spans.map((span) => [span.id, span]));
  const ordered = arrange(spans, byId);
  relate(ordered, byId);
  for (const span of ordered) span.wait = span.kindNumber === CONSUMER ? waitOf(span, byId) : null;
  const begin = ordered.reduce((least, span) => Math.min(least, span.wait?.from ?? 0), 0);
  const total = ordered.reduce((most, span) => Math.max(most, span.end), 1) - begin;
  return { spans: ordered, byId, zero, begin, total, services: [...new Set(ordered.map((span) => span.service))] };
}

function* flatten(otlp) {
  for (const group of otlp.resourceSpans ?? []) {
    const resource = attributes(group.resource?.attributes);
    const service = text(resource.get("service.name")) || "unknown_service";
    for (const scoped of group.scopeSpans ?? []) {
      for (const raw of scoped.spans ?? []) yield readSpan(raw, service, resource, scoped.scope ?? {});
    }
  }
}

function readSpan(raw, service, resource, scope) {
  const events = (raw.events ?? []).map((event) => ({
    name: event.name ?? "",
    timeNs: BigInt(event.timeUnixNano ?? 0),
    attributes: attributes(event.attributes),
  }));
  return {
    id: raw.spanId,
    parentId: raw.parentSpanId ?? "",
    traceId: raw.traceId,
    name: raw.name ?? "",
    kindNumber: raw.kind ?? 0,
    kind: KINDS[raw.kind ?? 0] ?? String(raw.kind),
    startNs: BigInt(raw.startTimeUnixNano ?? 0),
    endNs: BigInt(raw.endTimeUnixNano ?? 0),
    attributes: attributes(raw.attributes),
    events,
    exceptions: events.filter((event) => event.name === "exception"),
    links: (raw.links ?? []).map((link) => ({
      traceId: link.traceId, spanId: link.spanId, attributes: attributes(link.attributes),
    })),
    failed: raw.status?.code === ERROR,
    statusMessage: raw.status?.message ?? "",
    service, resource, scope,
  };
}

// Depth first, children by start. A span whose parent is not here starts a tree of its own and says
// so; parents that run in a circle are cut where the circle began.
function arrange(spans, byId) {
  const children = new Map();
  const roots = [];
  spans.sort((a, b) => a.start - b.start || (a.id < b.id ? -1 : 1));
  for (const span of spans) {
    span.orphan = span.parentId !== "" && !byId.has(span.parentId);
    if (span.parentId === "" || span.orphan) roots.push(span);
    else if (children.has(span.parentId)) children.get(span.parentId).push(span);
    else children.set(span.parentId, [span]);
  }
  const ordered = [];
  const seen = new Set();
  const walk = (root) => {
    const stack = [[root, 0]];
    while (stack.length) {
      const [span, depth] = stack.pop();
      if (seen.has(span)) continue;
      seen.add(span);
      span.depth = depth;
      span.children = (children.get(span.id) ?? []).filter((child) => !seen.has(child));
      ordered.push(span);
      for (let index = span.children.length - 1; index >= 0; index--) stack.push([span.children[index], depth + 1]);
    }
  };
  roots.forEach(walk);
  for (const span of spans) {
    if (!seen.has(span)) {
      span.orphan = true;
      walk(span);
    }
  }
  return ordered;
}

// From the end of the send span (or of the attempt before) to the start of this one. The worker's own
// measures are better than two clocks: they give the label, and the place where no send span is here.
// They begin when the message can be received: what a retry waits before that is its back-off.
function waitOf(span, byId) {
  const parts = Object.entries(QUEUE)
    .map(([name, key]) => ({ name, us: Number(span.attributes.get(key) ?? 0) * 1000 }))
    .filter((part) => part.us > 0);
  const measured = parts.reduce((sum, part) => sum + part.us, 0);
  const sender = [span.parentId, ...span.links.map((link) => link.spanId)]
    .map((id) => byId.get(id))
    .find((candidate) => candidate?.kindNumber === PRODUCER);
  const earlier = (sender?.children ?? [])
    .filter((other) => other.kindNumber === CONSUMER && other !== span && other.end <= span.start);
  const before = earlier.reduce((latest, other) => Math.max(latest, other.end), sender?.end ?? span.start - measured);
  const from = Math.min(before, span.start);
  const between = span.start - from;
  if (earlier.length && between > measured) {
    return { from, us: between, parts: [{ name: "backoff", us: between - measured }, ...parts] };
  }
  const us = measured || between;
  return us > 0 ? { from: between === 0 ? span.start - measured : from, us, parts } : null;
}

// What a delivery is: the second attempt of a task, a message that came back from the DLQ, one that
// was sent again. A retry and a redriven message both link the attempt before; SQS counts only the
// first one's deliveries on.
function relate(spans, byId) {
  const attempts = Map.groupBy(spans.filter((span) => receives(span)), (span) => text(span.attributes.get(TASK)));
  for (const span of spans) {
    for (const link of span.links) link.relation = relation(span, byId.get(link.spanId));
    const said = span.links.map((link) => link.relation);
    const several = receives(span) > 1 || attempts.get(text(span.attributes.get(TASK)))?.length > 1;
    if (said.includes("redrive of")) span.delivery = "redrive";
    else if (said.includes("sent again after")) span.delivery = "sent again";
    else if (receives(span) && several) span.delivery = `attempt ${receives(span)}`;
  }
}

function relation(span, target) {
  if (target?.kindNumber === CONSUMER) {
    if (span.kindNumber === PRODUCER || receives(span) === 1) return "redrive of";
    return span.kindNumber === CONSUMER ? "follows" : "";
  }
  if (target?.kindNumber !== PRODUCER) return "";
  return span.kindNumber === PRODUCER ? "sent again after" : "sent by";
}

function receives(span) {
  return span.kindNumber === CONSUMER ? Number(span.attributes.get(RECEIVES) ?? 0) : 0;
}

export function rowsOf(trace, folded) {
  const rows = [];
  let hiddenBelow = Infinity;
  for (const span of trace.spans) {
    if (span.depth > hiddenBelow) continue;
    hiddenBelow = folded.has(span.id) && span.children.length ? span.depth : Infinity;
    rows.push(span);
  }
  return rows;
}

export function attributes(list) {
  return new Map((list ?? []).map((item) => [item.key, plain(item.value ?? {})]));
}

function plain(value) {
  const [kind] = Object.keys(value);
  if (kind === "arrayValue") return (value.arrayValue.values ?? []).map(plain);
  if (kind === "kvlistValue") return Object.fromEntries(attributes(value.kvlistValue.values));
  return kind === undefined ? null : value[kind];
}

export function text(value) {
  if (value === undefined || value === null) return "";
  return typeof value === "object" ? JSON.stringify(value) : String(value);
}

export function lineOffset(line, trace) {
  return Number(exactMicroseconds(line.timestamp) - trace.zero / 1000n);
}

// Microseconds since 1970 of an RFC 3339 time: as a number they are exact for 200 years more.
export function microseconds(timestamp) {
  return Number(exactMicroseconds(timestamp));
}

function exactMicroseconds(timestamp) {
  const [, whole, fraction] = /^(.*:\d\d)(?:\.(\d+))?Z$/.exec(timestamp);
  return BigInt(Date.parse(`${whole}Z`)) * 1000n + BigInt((fraction ?? "").padEnd(6, "0").slice(0, 6));
}

function micros(ns) {
  return Number(ns) / 1000;
}
