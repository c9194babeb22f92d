"""A streamed completion as its client reads it."""

import json

import httpx

from tests.server.serving.server_process import NO_TLS, PATIENCE


class Stream:
    """Reads one frame after another."""

    def __init__(self, server, **body):
        self._client = httpx.Client(timeout=PATIENCE, verify=NO_TLS)
        wanted = {"prompt": [1, 2, 3], "stream": True, "ignore_eos": True, **body}
        request = self._client.build_request("POST", f"{server.url}/v1/completions", json=wanted)
        self.response = self._client.send(request, stream=True)
        self._lines = self.response.iter_lines()

    def frame(self):
        """Return the next frame; None for the last word."""
        line = next(line for line in self._lines if line)
        data = line.removeprefix("data: ")
        return None if data == "[DONE]" else json.loads(data)

    def rest(self):
        """Return all frames to the end, which must be said."""
        frames = []
        while (frame := self.frame()) is not None:
            frames.append(frame)
        return frames

    def close(self):
        self.response.close()
        self._client.close()


def text_of(frames):
    return "".join(frame["choices"][0]["text"] for frame in frames)
