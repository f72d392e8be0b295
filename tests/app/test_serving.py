"""How the API is served, whatever it serves."""

import http.client
import time

import httpx

from tests.app.conftest import Service


def test_an_idle_connection_stays_open_for_longer_than_clients_keep_it(service: Service) -> None:
    """Or a client sends on a connection that is being closed, and cannot know whether its request arrived."""
    connection = http.client.HTTPConnection(httpx.URL(service.url).netloc.decode())
    connection.request("GET", "/v2/health/live")
    assert connection.getresponse().read()
    sock = connection.sock
    time.sleep(6)  # httpx keeps one for 5 s, and so did uvicorn
    connection.request("GET", "/v2/health/live")
    assert connection.getresponse().status == 200
    assert connection.sock is sock
