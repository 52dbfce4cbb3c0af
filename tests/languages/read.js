// Reads headers with OpenTelemetry's own propagators, one set a line, and says what it understood
// and what it would write itself: base64 words, since values may hold anything.
const { ROOT_CONTEXT, propagation, trace, defaultTextMapGetter, defaultTextMapSetter } =
  require("@opentelemetry/api");
const { CompositePropagator, W3CBaggagePropagator, W3CTraceContextPropagator } =
  require("@opentelemetry/core");

const propagator = new CompositePropagator({
  propagators: [new W3CTraceContextPropagator(), new W3CBaggagePropagator()],
});
const plain = (word) => Buffer.from(word, "base64").toString();
const word = (text) => Buffer.from(text ?? "", "utf8").toString("base64") || "-";

for (const line of require("fs").readFileSync(0, "utf8").trim().split("\n")) {
  const [traceparent, tracestate, baggage] = line.split(" ").map(plain);
  const carrier = { traceparent, ...(tracestate && { tracestate }), baggage };
  const context = propagator.extract(ROOT_CONTEXT, carrier, defaultTextMapGetter);
  const members = propagation.getBaggage(context)?.getAllEntries() ?? [];
  const written = {};
  propagator.inject(context, written, defaultTextMapSetter);
  const names = ["traceparent", "tracestate", "baggage"].map((name) => word(written[name]));
  const pairs = members.map(([key, entry]) => `${word(key)}:${word(entry.value)}`);
  console.log([...names, ...pairs].join(" "));
}
