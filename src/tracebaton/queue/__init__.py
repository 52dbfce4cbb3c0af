"""The queue wing: producer and worker over SQS, the mirror of the HTTP wing."""
