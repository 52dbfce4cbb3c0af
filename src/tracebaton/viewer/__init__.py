"""The local trace viewer: an OTLP intake, a bounded store of spans and a page without a build."""
