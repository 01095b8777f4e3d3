import asyncio
import io
import os
import re
import signal
import socket

import pytest

pytest.importorskip("uvicorn", reason="uvicorn is not installed: pip install 'store-engine[serve]'")

from store_engine.errors import InputError
from store_engine.serving.http.listener import bind, http_config, listen
from store_engine.serving.settings import ServeSettings

SETTINGS = ServeSettings(port=0, drain_s=5.0)


async def app(scope, receive, send):
    assert scope["type"] == "http"
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"ok"})


class Impatient(io.StringIO):
    """A client that connects the moment it reads where to."""

    answer = None

    def write(self, text):
        if found := re.search(r"serving at http://([\d.]+):(\d+),", text):
            self.answer = socket.create_connection((found[1], int(found[2])), timeout=60)
            self.answer.sendall(b"GET / HTTP/1.0\r\n\r\n")
        return super().write(text)


def test_the_address_is_told_when_clients_can_connect(monkeypatch):
    client = Impatient()
    monkeypatch.setattr("sys.stderr", client)
    config = http_config(SETTINGS)
    config.app = app

    async def run():
        served = asyncio.create_task(listen(config, bind(config)))
        while client.answer is None:
            assert not served.done()
            await asyncio.sleep(0.01)
        answer = await asyncio.to_thread(client.answer.recv, 1000)
        os.kill(os.getpid(), signal.SIGTERM)
        await served
        return answer

    answer = asyncio.run(asyncio.wait_for(run(), 60))
    client.answer.close()
    assert answer.startswith(b"HTTP/1.1 200")


def test_an_address_that_is_taken_is_one_line():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=rf"^127\.0\.0\.1:{port}: cannot be listened at$"):
            bind(http_config(ServeSettings(port=port)))
