"""What the aioquic client and server share: TLS settings, SPIFFE checks, and a connection that tells everything."""

import json
import ssl

from aioquic.buffer import Buffer, BufferReadError
from aioquic.h3.connection import H3_ALPN, H3Connection
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import StreamDataReceived
from aioquic.tls import verify_certificate
from cryptography import x509

GOAWAY = 0x7
SETTINGS = 0x4

H3_NO_ERROR = 0x100
H3_INTERNAL_ERROR = 0x102
H3_REQUEST_REJECTED = 0x10B
H3_REQUEST_CANCELLED = 0x10C


def settings(args, is_client):
    """TLS settings with the certificate of the command line. The chain is checked in `identity_of`."""
    configuration = QuicConfiguration(
        is_client=is_client,
        alpn_protocols=H3_ALPN,
        idle_timeout=30.0,
        verify_mode=ssl.CERT_NONE,
        server_name="lacis.test" if is_client else None,
    )
    if args.cert:
        configuration.load_cert_chain(args.cert, args.key)
    return configuration


def identity_of(tls, ca):
    """The peer's SPIFFE identity, or None if it sent no certificate. Raises if the bundle did not sign it.

    aioquic itself checks a host name, which a SPIFFE certificate does not have.
    """
    certificate = tls._peer_certificate
    if certificate is None:
        return None
    verify_certificate(certificate, chain=tls._peer_certificate_chain, cafile=ca)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    if len(uris) != 1:
        raise ValueError(f"a SPIFFE certificate has one URI, this one has {uris}")
    return uris[0]


def say(**line):
    """Prints one JSON line."""
    print(json.dumps(line), flush=True)


def text(headers):
    return [[name.decode("latin-1"), value.decode("latin-1")] for name, value in headers]


class H3(H3Connection):
    """An HTTP/3 connection that also remembers the peer's GOAWAY identifiers and the id of its own control stream."""

    def __init__(self, quic):
        self.streams = {}
        self.bodiless = set()
        super().__init__(quic)

    @property
    def control(self):
        return self._local_control_stream_id

    @property
    def goaways(self):
        """The identifiers, oldest first. aioquic reads over these frames."""
        control = self.streams.get(self._peer_control_stream_id, b"")
        buffer, found = Buffer(data=control), []
        try:
            buffer.pull_uint_var()  # the type of the stream
            while not buffer.eof():
                kind, length = buffer.pull_uint_var(), buffer.pull_uint_var()
                payload = Buffer(data=buffer.pull_bytes(length))
                if kind == GOAWAY:
                    found.append(payload.pull_uint_var())
        except BufferReadError:
            pass  # The rest has not come yet.
        return found

    def handle_event(self, event):
        if isinstance(event, StreamDataReceived) and event.stream_id % 4 == (3 if self._is_client else 2):
            self.streams[event.stream_id] = self.streams.get(event.stream_id, b"") + event.data
        return super().handle_event(event)

    def _check_content_length(self, stream):
        # aioquic does not know that the answer to HEAD has a length and no content (RFC 9110 section 9.3.2).
        if stream.stream_id not in self.bodiless:
            super()._check_content_length(stream)
