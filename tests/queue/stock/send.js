// Sends one message as any Node service with OpenTelemetry's AWS SDK instrumentation does, and prints
// the id of its trace. Arguments: the endpoint and the queue's URL.
"use strict";
const { NodeTracerProvider } = require("@opentelemetry/sdk-trace-node");
const { registerInstrumentations } = require("@opentelemetry/instrumentation");
const { AwsInstrumentation } = require("@opentelemetry/instrumentation-aws-sdk");
const { trace } = require("@opentelemetry/api");
const provider = new NodeTracerProvider();
provider.register();
registerInstrumentations({ instrumentations: [new AwsInstrumentation()] });
const { SQSClient, SendMessageCommand } = require("@aws-sdk/client-sqs");
const [endpoint, QueueUrl] = process.argv.slice(2);
const client = new SQSClient({
  endpoint,
  region: "us-east-1",
  credentials: { accessKeyId: "local", secretAccessKey: "local" },
});
trace.getTracer("stock").startActiveSpan("order", async (span) => {
  await client.send(new SendMessageCommand({ QueueUrl, MessageBody: '{"text": "from Node"}' }));
  span.end();
  console.log(span.spanContext().traceId);
});
