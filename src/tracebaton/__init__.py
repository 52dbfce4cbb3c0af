"""One trace, one request store, one log schema and one error story over HTTP and SQS."""
