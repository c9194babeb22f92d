"""Requests, sampling, HTTP and the command line; `server -> models -> paging`, never the other way."""
