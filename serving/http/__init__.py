"""The API: one ASGI application in front of a worker."""
