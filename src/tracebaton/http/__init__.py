"""The HTTP wing: one trace, one store and one error story for any Starlette or FastAPI app."""
