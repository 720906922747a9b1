"""An HTTP/3 server made of aioquic, as a foreign peer for `link: h3`.

Every connection must show a certificate of the bundle. One JSON line says each event on standard output. The path says
what happens:

/echo          the request body comes back as it arrives, and the request's trailers with an `echoed-` before the name
/headers       the request's header fields as JSON
/bytes/N       N bytes
/early         103 with a link field, then 200
/held/N        waits until N such requests are waiting, on any connection, then answers all
/stop          answers and asks the client to stop sending (RFC 9114 section 4.1)
/reset         head with `content-length: 1000`, four bytes, RESET_STREAM
/reset-open    the same without a length
/truncated     head with `content-length: 1000`, four bytes, FIN
/goaway        answers; GOAWAY; later streams of this connection are rejected
/reject        GOAWAY that names this very stream, which is rejected: it may be tried elsewhere
/close         closes the connection without an answer
/malformed/X   an answer that is malformed in the way X (`MALFORMED` below)
Anything else  200 with the path as body.
"""

import argparse
import asyncio
import itertools
import json

from aioquic.asyncio import QuicConnectionProtocol
from aioquic.asyncio.server import serve
from aioquic.buffer import encode_uint_var
from aioquic.h3.connection import FrameType, encode_frame
from aioquic.h3.events import DataReceived, HeadersReceived
from aioquic.quic.connection import QuicConnection
from aioquic.quic.events import ConnectionTerminated, HandshakeCompleted, StreamReset, StreamDataReceived

from h3_common import (
    GOAWAY,
    H3,
    H3_INTERNAL_ERROR,
    H3_NO_ERROR,
    H3_REQUEST_REJECTED,
    identity_of,
    say,
    settings,
    text,
)

OK = (b":status", b"200")

# Heads, bodies and trailers that a client must refuse (RFC 9114 sections 4.1.2, 4.2 and 4.3).
MALFORMED = {
    "two-status": ([OK, (b":status", b"204")], b"", []),
    "no-status": ([(b"server", b"x")], b"", []),
    "status-not-a-number": ([(b":status", b"2x0")], b"", []),
    "pseudo-after-regular": ([(b"server", b"x"), OK], b"", []),
    "request-pseudo": ([OK, (b":path", b"/")], b"", []),
    "unknown-pseudo": ([OK, (b":color", b"red")], b"", []),
    "connection": ([OK, (b"connection", b"close")], b"", []),
    "transfer-encoding": ([OK, (b"transfer-encoding", b"chunked")], b"", []),
    "uppercase": ([OK, (b"Server", b"x")], b"", []),
    "line-feed": ([OK, (b"x", b"a\r\nset-cookie: b")], b"", []),
    "two-lengths": ([OK, (b"content-length", b"3"), (b"content-length", b"4")], b"abc", []),
    "body-longer": ([OK, (b"content-length", b"2")], b"abc", []),
    "body-shorter": ([OK, (b"content-length", b"4")], b"abc", []),
    "pseudo-in-trailers": ([OK], b"abc", [(b":status", b"200")]),
    "connection-in-trailers": ([OK], b"abc", [(b"connection", b"close")]),
}

connections = itertools.count(1)
held = []


class Server(QuicConnectionProtocol):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.number = next(connections)
        self.http = None
        self.paths = {}
        self.rejected_from = None

    def quic_event_received(self, event):
        if isinstance(event, HandshakeCompleted):
            self.greet()
        elif isinstance(event, ConnectionTerminated):
            say(event="closed", connection=self.number, code=event.error_code, reason=event.reason_phrase)
        elif isinstance(event, StreamReset):
            say(event="reset", connection=self.number, stream=event.stream_id, code=event.error_code)
        if self.http is None:
            return
        if isinstance(event, StreamDataReceived) and self.refuses(event.stream_id):
            return
        for http_event in self.http.handle_event(event):
            if isinstance(http_event, HeadersReceived):
                self.head(http_event)
            elif isinstance(http_event, DataReceived):
                self.data(http_event)

    def greet(self):
        try:
            who = identity_of(self._quic.tls, options.ca)
        except Exception as error:
            who = None
            say(event="untrusted", connection=self.number, error=str(error))
        if who is None or (options.client and who != options.client):
            self.close(error_code=H3_REQUEST_REJECTED, reason_phrase="who are you?")
            return
        say(event="connection", connection=self.number, identity=who)
        self.http = H3(self._quic)

    def refuses(self, stream):
        if self.rejected_from is None or stream % 4 != 0 or stream < self.rejected_from:
            return False
        self._quic.reset_stream(stream, H3_REQUEST_REJECTED)
        self._quic.stop_stream(stream, H3_REQUEST_REJECTED)
        self.transmit()
        return True

    def head(self, event):
        stream = event.stream_id
        if stream in self.paths:  # trailers
            if self.paths[stream] == "/echo":
                echoed = [(b"echoed-" + name, value) for name, value in event.headers]
                self.http.send_headers(stream, echoed, end_stream=True)
            return
        fields = dict(event.headers)
        path = fields[b":path"].decode()
        self.paths[stream] = path
        say(event="request", connection=self.number, stream=stream, method=fields[b":method"].decode(), path=path)
        self.answer(stream, path, event)

    def data(self, event):
        if self.paths.get(event.stream_id) == "/echo" and event.push_id is None:
            self.http.send_data(event.stream_id, event.data, end_stream=event.stream_ended)
            self.transmit()

    def answer(self, stream, path, event):
        http, quic = self.http, self._quic
        if path == "/echo":
            http.send_headers(stream, self.ok(), end_stream=event.stream_ended)
        elif path == "/headers":
            self.whole(stream, json.dumps(text(event.headers)).encode())
        elif path.startswith("/bytes/"):
            self.whole(stream, b"x" * int(path.split("/")[2]))
        elif path == "/early":
            http.send_headers(stream, [(b":status", b"103"), (b"link", b"</style.css>; rel=preload")])
            self.whole(stream, b"late")
        elif path.startswith("/held/"):
            held.append((self, stream))
            if len(held) == int(path.split("/")[2]):
                for protocol, waiting in held:
                    protocol.whole(waiting, b"held")
                    protocol.transmit()
                held.clear()
        elif path == "/stop":
            self.whole(stream, b"enough")
            quic.stop_stream(stream, H3_NO_ERROR)
        elif path in ("/reset", "/reset-open", "/truncated"):
            length = [] if path == "/reset-open" else [(b"content-length", b"1000")]
            http.send_headers(stream, [OK, *length])
            http.send_data(stream, b"half", end_stream=path == "/truncated")
            if path != "/truncated":
                # Two round trips later, so that the client has had the half.
                asyncio.ensure_future(self.reset_when_read(stream))
        elif path == "/goaway":
            self.rejected_from = stream + 4
            self.goaway(stream + 4)
            self.whole(stream, b"going")
        elif path == "/reject":
            self.rejected_from = stream
            self.goaway(stream)
            quic.reset_stream(stream, H3_REQUEST_REJECTED)
            quic.stop_stream(stream, H3_REQUEST_REJECTED)
        elif path == "/close":
            self.close(error_code=H3_INTERNAL_ERROR, reason_phrase="told to")
        elif path.startswith("/malformed/"):
            self.malformed(stream, path.split("/")[2])
        else:
            self.whole(stream, path.encode())
        self.transmit()

    def ok(self):
        return [OK, (b"x-connection", str(self.number).encode())]

    def whole(self, stream, body):
        self.http.send_headers(stream, [*self.ok(), (b"content-length", str(len(body)).encode())])
        self.http.send_data(stream, body, end_stream=True)

    def goaway(self, stream):
        self._quic.send_stream_data(self.http.control, encode_frame(GOAWAY, encode_uint_var(stream)))

    async def reset_when_read(self, stream):
        await self.ping()
        await self.ping()
        self._quic.reset_stream(stream, H3_INTERNAL_ERROR)
        self.transmit()

    def malformed(self, stream, kind):
        if kind == "huge-head":
            # A HEADERS frame that announces 1 GiB; some of it follows.
            announced = encode_uint_var(FrameType.HEADERS) + encode_uint_var(1 << 30)
            self._quic.send_stream_data(stream, announced + b"\0" * (4 << 20))
            return
        head, body, trailers = MALFORMED[kind]
        sent = encode_frame(FrameType.HEADERS, self.http._encode_headers(stream, head))
        if body:
            sent += encode_frame(FrameType.DATA, body)
        if trailers:
            sent += encode_frame(FrameType.HEADERS, self.http._encode_headers(stream, trailers))
        self._quic.send_stream_data(stream, sent, end_stream=True)


def limit_streams(count):
    """Lets a client have `count` requests open at once. aioquic has no setting for it."""
    initialize = QuicConnection.__init__

    def limited(self, *args, **kwargs):
        initialize(self, *args, **kwargs)
        self._local_max_streams_bidi.value = count
        self._local_max_streams_bidi.sent = count

    QuicConnection.__init__ = limited

    # Certificates are asked for by an attribute that aioquic keeps for its own tests.
    start = QuicConnection._initialize

    def asking(self, *args, **kwargs):
        start(self, *args, **kwargs)
        self.tls._request_client_certificate = True

    QuicConnection._initialize = asking


async def main():
    server = await serve("127.0.0.1", options.port, configuration=settings(options, False), create_protocol=Server)
    say(event="listening", port=server._transport.get_extra_info("sockname")[1])
    await asyncio.Event().wait()


parser = argparse.ArgumentParser()
parser.add_argument("--port", type=int, default=0)
parser.add_argument("--cert", required=True)
parser.add_argument("--key", required=True)
parser.add_argument("--ca", required=True)
parser.add_argument("--client", help="the only SPIFFE identity that may connect")
parser.add_argument("--max-streams", type=int, default=128)
options = parser.parse_args()
limit_streams(options.max_streams)
asyncio.run(main())
