// sqs-consumer in batch mode, BENCH_POLLERS of them in one process; BENCH_SLEEP milliseconds each.
import { createRequire } from "node:module";
import fs from "node:fs";

const require = createRequire(process.env.BENCH_MODULES + "/");
const { Consumer } = require("sqs-consumer");
const { SQSClient } = require("@aws-sdk/client-sqs");

const ledger = fs.openSync(process.env.BENCH_LEDGER, "r+");
const seen = Buffer.alloc(Number(process.env.BENCH_COUNT));
const pause = Number(process.env.BENCH_SLEEP || 0);
const sqs = new SQSClient({ endpoint: process.env.BENCH_ENDPOINT, region: "us-east-1" });

function mark(message) {
  const number = JSON.parse(message.Body).number;
  seen[number] += 1;
  fs.writeSync(ledger, seen, number, 1, number);
}

const consumers = Array.from({ length: Number(process.env.BENCH_POLLERS) }, () =>
  Consumer.create({
    queueUrl: process.env.BENCH_QUEUE,
    sqs,
    batchSize: 10,
    waitTimeSeconds: 20,
    handleMessageBatch: async (messages) => {
      if (pause) await new Promise((done) => setTimeout(done, pause));
      messages.forEach(mark);
      return messages;
    },
  }),
);
consumers.forEach((consumer) => {
  consumer.on("error", (error) => console.error(error.message));
  consumer.on("processing_error", (error) => console.error(error.message));
  consumer.start();
});
process.on("SIGTERM", () => process.exit(0));
