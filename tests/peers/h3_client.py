"""An HTTP/3 client made of aioquic: whole requests, and frames that no honest client sends.

Each line of standard input, or each `--do` argument, is a JSON object; each gets one JSON line of answer. All of them
use one connection, one after the other, until it closes; then the next one opens another.

{"request": {"method", "path", "headers", "body", "pieces", "trailers"}}   everything but `path` may be absent;
                                                                           "goaway": true also waits for a GOAWAY
{"many": {"path", "count"}}                                                requests at the same time
{"probe": "NAME"}                                                          one of `PROBES`, always on a fresh connection
"""

import argparse
import asyncio
import json
import sys

from aioquic.asyncio import QuicConnectionProtocol
from aioquic.buffer import encode_uint_var
from aioquic.h3.connection import FrameType, encode_frame
from aioquic.h3.events import DataReceived, HeadersReceived
from aioquic.quic.connection import QuicConnection
from aioquic.quic.events import ConnectionTerminated, HandshakeCompleted, StopSendingReceived, StreamReset

from h3_common import GOAWAY, H3, H3_REQUEST_CANCELLED, SETTINGS, identity_of, say, settings, text


class Exchange:
    """What came back on one request stream."""

    def __init__(self):
        self.informational, self.headers, self.body, self.trailers = [], None, b"", None
        self.finished, self.reset, self.stop = False, None, None
        self.done = asyncio.Event()
        self.started = asyncio.Event()

    def summary(self):
        status = dict(self.headers).get(b":status", b"").decode() if self.headers else None
        return {
            "status": status and int(status),
            "informational": [text(head) for head in self.informational],
            "headers": text(self.headers or []),
            "body": self.body.decode("latin-1") if len(self.body) <= 4096 else None,
            "length": len(self.body),
            "trailers": text(self.trailers or []),
            "finished": self.finished,
            "reset": self.reset,
            "stop": self.stop,
        }


class Client(QuicConnectionProtocol):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.http = None
        self.exchanges = {}
        self.closed = None
        self.server = None
        self.gone = asyncio.Event()

    def quic_event_received(self, event):
        if isinstance(event, HandshakeCompleted):
            self.server = identity_of(self._quic.tls, options.ca)
            if options.identity and self.server != options.identity:
                self.close(reason_phrase="not the server I wanted")
                return
            self.http = H3(self._quic)
        elif isinstance(event, ConnectionTerminated):
            self.closed = {"code": event.error_code, "reason": event.reason_phrase}
            self.gone.set()
            for exchange in self.exchanges.values():
                exchange.started.set()
                exchange.done.set()
        elif isinstance(event, StreamReset) and event.stream_id in self.exchanges:
            self.exchanges[event.stream_id].reset = event.error_code
            self.exchanges[event.stream_id].done.set()
        elif isinstance(event, StopSendingReceived) and event.stream_id in self.exchanges:
            self.exchanges[event.stream_id].stop = event.error_code
        if self.http is None:
            return
        for http_event in self.http.handle_event(event):
            exchange = self.exchanges.get(http_event.stream_id)
            if exchange is None:
                continue
            if isinstance(http_event, HeadersReceived):
                if http_event.headers[0][1].startswith(b"1") and exchange.headers is None:
                    exchange.informational.append(http_event.headers)
                elif exchange.headers is None:
                    exchange.headers = http_event.headers
                    exchange.started.set()
                else:
                    exchange.trailers = http_event.headers
            elif isinstance(http_event, DataReceived):
                exchange.body += http_event.data
            if http_event.stream_ended:
                exchange.finished = True
                exchange.done.set()

    def open(self):
        stream = self._quic.get_next_available_stream_id()
        self.exchanges[stream] = Exchange()
        return stream

    def fields(self, method="GET", path="/", headers=()):
        pseudo = [(":method", method), (":scheme", "https"), (":authority", options.authority), (":path", path)]
        return [(name.encode(), value.encode()) for name, value in [*pseudo, *headers]]

    def send(self, stream, data, end=False):
        self._quic.send_stream_data(stream, data, end_stream=end)
        self.transmit()

    def block(self, stream, fields):
        """A HEADERS frame with exactly these fields, however wrong they are."""
        return encode_frame(FrameType.HEADERS, self.http._encode_headers(stream, fields))

    async def request(self, what):
        stream = self.open()
        exchange = self.exchanges[stream]
        body = what.get("body", "").encode()
        pieces = what.get("pieces", [])
        trailers = [(name.encode(), value.encode()) for name, value in what.get("trailers", [])]
        head = self.fields(what.get("method", "GET"), what.get("path", "/"), what.get("headers", []))
        if what.get("method") == "HEAD":
            self.http.bodiless.add(stream)
        self.http.send_headers(stream, head, end_stream=not (body or pieces or trailers))
        if body:
            self.http.send_data(stream, body, end_stream=not (pieces or trailers))
        for number, size in enumerate(pieces):
            self.http.send_data(stream, b"x" * size, end_stream=number == len(pieces) - 1 and not trailers)
        if trailers:
            self.http.send_headers(stream, trailers, end_stream=True)
        self.transmit()
        answer = await self.end(exchange)
        while what.get("goaway") and not self.http.goaways and self.closed is None:
            await self.ping()
        return answer

    async def end(self, exchange):
        try:
            await asyncio.wait_for(exchange.done.wait(), options.patience)
        except asyncio.TimeoutError:
            return {**exchange.summary(), "timeout": True}
        return exchange.summary()


def request_probe(fields=None, more=b"", end=True, change=lambda fields: fields):
    """A probe that is one request with `change`d fields and `more` frames behind the head."""

    async def run(client):
        stream = client.open()
        head = change(client.fields(path="/echo")) if fields is None else fields
        tail = more(client, stream) if callable(more) else more
        client.send(stream, client.block(stream, head) + tail, end)
        return await client.end(client.exchanges[stream])

    return run


def raw_probe(data, end=False):
    """A probe that writes bytes on a request stream."""

    async def run(client):
        stream = client.open()
        client.send(stream, data(client, stream) if callable(data) else data, end)
        return await client.end(client.exchanges[stream])

    return run


def connection_probe(act):
    """A probe whose answer is the end of the connection."""

    async def run(client):
        # Our streams must be known there before something is wrong with them: a reset one loses what was not read yet.
        await client.request({"path": "/bytes/3"})
        act(client)
        client.transmit()
        try:
            await asyncio.wait_for(client.gone.wait(), options.patience)
        except asyncio.TimeoutError:
            return {"timeout": True}
        return {}

    return run


def control(*frames):
    def act(client):
        for kind, payload in frames:
            client._quic.send_stream_data(client.http.control, encode_frame(kind, payload))

    return connection_probe(act)


def stream_of_type(kind, payload=b""):
    def act(client):
        stream = client._quic.get_next_available_stream_id(is_unidirectional=True)
        client._quic.send_stream_data(stream, encode_uint_var(kind) + payload)

    return act


def data(body):
    return encode_frame(FrameType.DATA, body)


def with_field(*fields):
    return lambda head: [*head, *fields]


def trailers(*fields):
    return lambda client, stream: data(b"abc") + client.block(stream, list(fields))


def replace(name, value):
    return lambda head: [(n, value if n == name else v) for n, v in head]


def without(name):
    return lambda head: [(n, v) for n, v in head if n != name]


async def cancelled_upload(client):
    """A request whose body is given up half way; the answer, if any, is looked at by the test at the application."""
    stream = client.open()
    client.send(stream, client.block(stream, client.fields("POST", "/drain")) + data(b"half"))
    await client.ping()
    await client.ping()
    client._quic.reset_stream(stream, H3_REQUEST_CANCELLED)
    client.transmit()
    return await client.end(client.exchanges[stream])


async def cancelled_download(client):
    """A response that the client stops to read; the connection stays good for others."""
    stream = client.open()
    exchange = client.exchanges[stream]
    client.send(stream, client.block(stream, client.fields(path=options.download)), end=True)
    await asyncio.wait_for(exchange.started.wait(), options.patience)
    client._quic.stop_stream(stream, H3_REQUEST_CANCELLED)
    client.transmit()
    return await client.end(exchange)


async def huge_head(client):
    """A HEADERS frame that announces 1 GiB, and 8 MiB of it, as far as the peer takes them."""
    stream = client.open()
    exchange = client.exchanges[stream]
    announced = encode_uint_var(FrameType.HEADERS) + encode_uint_var(1 << 30)
    client.send(stream, announced + b"\0" * (8 << 20))
    return await client.end(exchange)


UNKNOWN = encode_frame(0x21, b"grease") + encode_frame(0x1F * 7 + 0x21, b"")

PROBES = {
    # Malformed requests: RFC 9114 section 4.1.2, H3_MESSAGE_ERROR on the stream, or 400.
    "two-paths": request_probe(change=with_field((b":path", b"/admin"))),
    "two-methods": request_probe(change=lambda head: [(b":method", b"POST"), *head]),
    "two-authorities": request_probe(change=lambda head: [(b":authority", b"other"), *head]),
    "pseudo-after-regular": request_probe(change=lambda head: [(b"x", b"y"), *head]),
    "status-in-request": request_probe(change=lambda head: [(b":status", b"200"), *head]),
    "unknown-pseudo": request_probe(change=lambda head: [(b":color", b"red"), *head]),
    "protocol-without-connect": request_probe(change=lambda head: [(b":protocol", b"websocket"), *head]),
    "no-method": request_probe(change=without(b":method")),
    "no-scheme": request_probe(change=without(b":scheme")),
    "no-path": request_probe(change=without(b":path")),
    "empty-path": request_probe(change=replace(b":path", b"")),
    "no-authority": request_probe(change=without(b":authority")),
    "path-with-space": request_probe(change=replace(b":path", b"/a b HTTP/1.1")),
    "path-with-line-end": request_probe(change=replace(b":path", b"/ HTTP/1.1\r\nx: y")),
    "method-with-space": request_probe(change=replace(b":method", b"GET /admin HTTP/1.1")),
    "authority-with-user": request_probe(change=replace(b":authority", b"user@delta")),
    "host-differs": request_probe(change=with_field((b"host", b"other"))),
    "connection": request_probe(change=with_field((b"connection", b"close"))),
    "keep-alive": request_probe(change=with_field((b"keep-alive", b"5"))),
    "proxy-connection": request_probe(change=with_field((b"proxy-connection", b"close"))),
    "transfer-encoding": request_probe(change=with_field((b"transfer-encoding", b"chunked"))),
    "upgrade": request_probe(change=with_field((b"upgrade", b"websocket"))),
    "te-gzip": request_probe(change=with_field((b"te", b"gzip"))),
    "uppercase-name": request_probe(change=with_field((b"Name", b"x"))),
    "name-with-space": request_probe(change=with_field((b"a b", b"x"))),
    # The encoder refuses an empty name, so this field is written by hand (RFC 9204 section 4.5.6).
    "empty-name": raw_probe(
        lambda c, s: encode_frame(
            FrameType.HEADERS, c.http._encode_headers(s, c.fields(path="/echo")) + b"\x20\x01x"
        ),
        end=True,
    ),
    "value-with-line-end": request_probe(change=with_field((b"x", b"a\r\nx-smuggled: b"))),
    "value-with-nul": request_probe(change=with_field((b"x", b"a\0b"))),
    "length-100-body-3": request_probe(change=with_field((b"content-length", b"100")), more=data(b"abc")),
    "length-2-body-3": request_probe(change=with_field((b"content-length", b"2")), more=data(b"abc")),
    "length-3-no-body": request_probe(change=with_field((b"content-length", b"3"))),
    "two-lengths": request_probe(
        change=with_field((b"content-length", b"3"), (b"content-length", b"4")), more=data(b"abc")
    ),
    "length-plus": request_probe(change=with_field((b"content-length", b"+3")), more=data(b"abc")),
    "pseudo-in-trailers": request_probe(more=trailers((b":path", b"/admin"))),
    "connection-in-trailers": request_probe(more=trailers((b"connection", b"close"))),
    "uppercase-in-trailers": request_probe(more=trailers((b"Name", b"x"))),
    # Limits: 431, H3_EXCESSIVE_LOAD, or H3_MESSAGE_ERROR.
    "huge-head": huge_head,
    "many-fields": request_probe(change=with_field(*[(b"n%d" % i, b"v") for i in range(5000)])),
    "long-fields": request_probe(change=with_field(*[(b"n%d" % i, b"v" * (60 << 10)) for i in range(8)])),
    # Frames out of place: the connection ends, RFC 9114 sections 4.1, 7.1 and 7.2.
    "data-first": raw_probe(data(b"abc")),
    "headers-after-trailers": request_probe(
        more=lambda c, s: data(b"abc") + c.block(s, [(b"a", b"b")]) + c.block(s, [(b"c", b"d")])
    ),
    "data-after-trailers": request_probe(more=lambda c, s: data(b"abc") + c.block(s, [(b"a", b"b")]) + data(b"abc")),
    "settings-on-request": raw_probe(encode_frame(SETTINGS, b"")),
    "goaway-on-request": raw_probe(encode_frame(GOAWAY, b"\0")),
    "push-promise-from-client": raw_probe(encode_frame(FrameType.PUSH_PROMISE, b"\0\0\0")),
    "h2-frame-on-request": raw_probe(encode_frame(0x6, b"")),
    "frame-cut-by-fin": raw_probe(lambda c, s: c.block(s, c.fields())[:-3], end=True),
    "qpack-garbage": raw_probe(encode_frame(FrameType.HEADERS, b"\0\0\xff\xff\xff\xff"), end=True),
    "settings-twice": control((SETTINGS, b"")),
    "data-on-control": control((FrameType.DATA, b"abc")),
    "headers-on-control": control((FrameType.HEADERS, b"abc")),
    "h2-frame-on-control": control((0x8, b"abcd")),
    "goaway-cut": control((GOAWAY, b"")),
    "goaway-rising": control((GOAWAY, b"\0"), (GOAWAY, b"\4")),
    "max-push-id-falling": control((FrameType.MAX_PUSH_ID, b"\4"), (FrameType.MAX_PUSH_ID, b"\1")),
    "control-closed": connection_probe(lambda c: c._quic.send_stream_data(c.http.control, b"", end_stream=True)),
    "control-reset": connection_probe(lambda c: c._quic.reset_stream(c.http.control, 0x100)),
    "second-control": connection_probe(stream_of_type(0, encode_frame(SETTINGS, b""))),
    "push-stream-from-client": connection_probe(stream_of_type(1, b"\0")),
    # Nothing to complain of: unknown things are ignored, RFC 9114 section 9.
    "unknown-frames": request_probe(more=UNKNOWN),
    "unknown-frame-first": raw_probe(lambda c, s: UNKNOWN + c.block(s, c.fields(path="/echo")), end=True),
    "goaway-from-client": request_probe(
        more=lambda c, s: c._quic.send_stream_data(c.http.control, encode_frame(GOAWAY, b"\0")) or b""
    ),
    "te-trailers": request_probe(change=with_field((b"te", b"trailers"))),
    "asterisk": request_probe(change=lambda head: replace(b":method", b"OPTIONS")(replace(b":path", b"*")(head))),
    # Half requests.
    "empty-stream": raw_probe(b"", end=True),
    "cancelled-upload": cancelled_upload,
    "cancelled-download": cancelled_download,
}


async def unknown_stream(client):
    stream_of_type(0x21, b"grease")(client)
    return await client.request({"path": "/echo"})


PROBES["unknown-stream"] = unknown_stream


async def connect():
    """A connection whose handshake is over; None and the reason if there is none."""
    configuration = settings(options, True)
    host, port = options.address.rsplit(":", 1)
    loop = asyncio.get_running_loop()
    transport, client = await loop.create_datagram_endpoint(
        lambda: Client(QuicConnection(configuration=configuration)), local_addr=("127.0.0.1", 0)
    )
    client.connect((host, int(port)))
    try:
        await asyncio.wait_for(client.wait_connected(), options.patience)
    except asyncio.TimeoutError:
        client.closed = {"timeout": True}
    except ConnectionError:
        await client.gone.wait()
    return transport, client


async def leave(transport, client):
    if client.closed is None:
        client.close(error_code=0x100)
        await client.wait_closed()
    transport.close()


async def perform(client, line):
    if client.http is None:
        answer = {}
    elif "request" in line:
        answer = await client.request(line["request"])
    elif "many" in line:
        requests = [client.request(line["many"]) for _ in range(line["many"]["count"])]
        answer = {"answers": await asyncio.gather(*requests)}
    else:
        answer = await PROBES[line["probe"]](client)
        if client.closed is None:
            healthy = await client.request({"path": "/bytes/3"})
            answer["healthy"] = healthy["status"] == 200
        answer["probe"] = line["probe"]
    answer["closed"] = client.closed
    answer["server"] = client.server
    answer["goaway"] = client.http.goaways if client.http else []
    return answer


async def main():
    loop = asyncio.get_running_loop()
    transport = client = None
    given = iter(options.do)
    while True:
        line = next(given, "") if options.do else await loop.run_in_executor(None, sys.stdin.readline)
        if not line:
            break
        line = json.loads(line)
        if "probe" in line or client is None or client.closed:
            if client is not None:
                await leave(transport, client)
            transport, client = await connect()
        say(**await perform(client, line))
    if client is not None:
        await leave(transport, client)


parser = argparse.ArgumentParser()
parser.add_argument("--address", help="HOST:PORT to connect to")
parser.add_argument("--authority", default="delta")
parser.add_argument("--cert", help="client certificate chain; absent: none is shown")
parser.add_argument("--key")
parser.add_argument("--ca")
parser.add_argument("--identity", help="the SPIFFE identity that the server must have")
parser.add_argument("--patience", type=float, default=5.0, help="seconds to wait for an answer")
parser.add_argument("--download", default="/bytes/100000000", help="path of a long answer")
parser.add_argument("--do", action="append", default=[], help="instead of a line of standard input")
parser.add_argument("--probes", action="store_true", help="name the probes and end")
options = parser.parse_args()
if options.probes:
    print("\n".join(PROBES))
else:
    asyncio.run(main())
