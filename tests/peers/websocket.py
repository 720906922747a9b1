"""A WebSocket server and client made of `websockets`: `serve`, or `talk URL`. Each prints JSON."""

import json
import sys

from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect
from websockets.sync.server import serve


def answer(socket):
    for message in socket:
        if message == "close":
            socket.close(4001, "enough")
            return
        socket.send(message)


def admit(connection, request):
    """Refuses the handshake of one path with a plain answer."""
    if request.path.endswith("/refused"):
        return connection.respond(403, "not you\n")


def talk(url):
    told = {}
    with connect(url, subprotocols=["chat"], open_timeout=20, proxy=None) as socket:
        told["subprotocol"] = socket.subprotocol
        socket.send("grüße")
        told["text"] = socket.recv(timeout=20)
        socket.send(bytes(1_000_000))
        told["binary"] = len(socket.recv(timeout=20))
        told["pong"] = socket.ping().wait(20)
        for number in range(100):
            socket.send(str(number))
        told["order"] = [socket.recv(timeout=20) for _ in range(100)] == [str(n) for n in range(100)]
        socket.send("close")
        try:
            socket.recv(timeout=20)
        except ConnectionClosed as closed:
            told["server_close"] = [closed.rcvd.code, closed.rcvd.reason]
    try:
        connect(url + "/refused", open_timeout=20, proxy=None).close()
    except InvalidStatus as refused:
        told["refused"] = refused.response.status_code
    print(json.dumps(told))


if sys.argv[1] == "serve":
    with serve(answer, "127.0.0.1", 0, subprotocols=["chat"], process_request=admit) as server:
        print(json.dumps({"port": server.socket.getsockname()[1]}), flush=True)
        server.serve_forever()
else:
    talk(sys.argv[2])
