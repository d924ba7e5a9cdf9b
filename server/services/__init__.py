"""One module a service of the API."""
