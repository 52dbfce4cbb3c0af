"""Sends one message as a Python service with stock instrumentation does, and prints its trace."""

import json
import sys

import boto3
from opentelemetry import trace
from opentelemetry.instrumentation.boto3sqs import Boto3SQSInstrumentor
from opentelemetry.sdk.trace import TracerProvider

trace.set_tracer_provider(TracerProvider())
Boto3SQSInstrumentor().instrument()
endpoint, queue_url = sys.argv[1:]
client = boto3.client(
    "sqs",
    endpoint_url=endpoint,
    region_name="us-east-1",
    aws_access_key_id="local",
    aws_secret_access_key="local",
)
with trace.get_tracer("stock").start_as_current_span("order") as span:
    client.send_message(QueueUrl=queue_url, MessageBody=json.dumps({"text": "from Python"}))
    sys.stdout.write(trace.format_trace_id(span.get_span_context().trace_id) + "\n")
