//! What records say, in their order: content, and the messages that may follow a handshake (RFC 8446 sections 4.6, 5.1 and 6).

use bytes::BytesMut;
use rustls::{AlertDescription, ContentType, Error, HandshakeType, InvalidMessage, PeerMisbehaved};

use super::record::{Broken, Opener, misbehaved};

/// Records and messages in a row without content: empty ones, which hide how much is said, tickets, updates of keys. OpenSSL allows
/// as many empty ones.
const MAX_QUIET: u32 = 32;

/// A message of a handshake, at most; rustls has the same limit. A ticket has some hundred bytes.
const MAX_MESSAGE: usize = 0xffff;

/// The header of a message: its type, its length.
const MESSAGE_HEADER: usize = 4;

/// Something that the peer said.
#[derive(Debug)]
pub(super) enum Event {
    /// Content, never empty.
    Content(BytesMut),
    /// A ticket by which the session can be resumed: a NewSessionTicket without its header. Only clients get one.
    Ticket(Vec<u8>),
    /// The peer has changed its key: [`Reader::rekey`] comes before anything else is read.
    KeyUpdate {
        /// It wants ours to change, too.
        answer: bool,
    },
    /// Nothing more will be said (`close_notify`).
    Closed,
}

/// Reads records that lie in a block.
pub(super) struct Reader {
    opener: Opener,
    /// We are the client.
    client: bool,
    /// The beginning of a message.
    partial: Vec<u8>,
    quiet: u32,
}

impl Reader {
    pub(super) fn new(opener: Opener, client: bool) -> Self {
        Reader { opener, client, partial: Vec::new(), quiet: 0 }
    }

    /// What follows is protected by another key.
    pub(super) fn rekey(&mut self, opener: Opener) {
        self.opener = opener;
    }

    /// The next that the peer said, taken from the front of what was read; `None` if more must be read first.
    ///
    /// # Errors
    /// If the connection cannot go on: the peer says so, or breaks the rules.
    pub(super) fn next(&mut self, block: &mut BytesMut) -> Result<Option<Event>, Broken> {
        loop {
            if let Some(event) = self.message()? {
                return Ok(Some(event));
            }
            let Some((kind, content)) = self.opener.open(block)? else { return Ok(None) };
            if kind != ContentType::Handshake && !self.partial.is_empty() {
                return Err(misbehaved(PeerMisbehaved::MessageInterleavedWithHandshakeMessage));
            }
            match kind {
                ContentType::ApplicationData if content.is_empty() => self.quiet()?,
                ContentType::ApplicationData => {
                    self.quiet = 0;
                    return Ok(Some(Event::Content(content)));
                }
                ContentType::Alert => match alert(&content)? {
                    Some(event) => return Ok(Some(event)),
                    None => self.quiet()?,
                },
                ContentType::Handshake if content.is_empty() => {
                    return Err(Broken::new(AlertDescription::UnexpectedMessage, InvalidMessage::InvalidEmptyPayload));
                }
                ContentType::Handshake => self.partial.extend_from_slice(&content),
                other => {
                    let expect_types = vec![ContentType::ApplicationData, ContentType::Alert, ContentType::Handshake];
                    let error = Error::InappropriateMessage { expect_types, got_type: other };
                    return Err(Broken::new(AlertDescription::UnexpectedMessage, error));
                }
            }
        }
    }

    fn quiet(&mut self) -> Result<(), Broken> {
        self.quiet += 1;
        match self.quiet > MAX_QUIET {
            true => Err(misbehaved(PeerMisbehaved::TooManyEmptyFragments)),
            false => Ok(()),
        }
    }

    /// The first message of the handshake protocol, if it is all there.
    fn message(&mut self) -> Result<Option<Event>, Broken> {
        let Some(&[kind, high, middle, low]) = self.partial.first_chunk::<MESSAGE_HEADER>() else { return Ok(None) };
        let kind = HandshakeType::from(kind);
        let length = u32::from_be_bytes([0, high, middle, low]) as usize;
        match kind {
            HandshakeType::KeyUpdate if length != 1 => {
                return Err(Broken::new(AlertDescription::DecodeError, InvalidMessage::InvalidKeyUpdate));
            }
            HandshakeType::KeyUpdate => {}
            HandshakeType::NewSessionTicket if !self.client => return Err(inappropriate(self.client, kind)),
            HandshakeType::NewSessionTicket if length > MAX_MESSAGE => {
                return Err(Broken::new(AlertDescription::DecodeError, InvalidMessage::HandshakePayloadTooLarge));
            }
            HandshakeType::NewSessionTicket => {}
            _ => return Err(inappropriate(self.client, kind)),
        }
        let end = MESSAGE_HEADER + length;
        if self.partial.len() < end {
            return Ok(None);
        }
        self.quiet()?;
        let rest = self.partial.split_off(end);
        let mut message = std::mem::replace(&mut self.partial, rest);
        message.drain(..MESSAGE_HEADER);
        if kind == HandshakeType::NewSessionTicket {
            return Ok(Some(Event::Ticket(message)));
        }
        if !self.partial.is_empty() {
            // Nothing in the same record may come after a change of keys (section 5.1).
            return Err(misbehaved(PeerMisbehaved::KeyEpochWithPendingFragment));
        }
        match message[..] {
            [0] => Ok(Some(Event::KeyUpdate { answer: false })),
            [1] => Ok(Some(Event::KeyUpdate { answer: true })),
            _ => Err(Broken::new(AlertDescription::IllegalParameter, InvalidMessage::InvalidKeyUpdate)),
        }
    }
}

fn inappropriate(client: bool, kind: HandshakeType) -> Broken {
    let mut expect_types = vec![HandshakeType::KeyUpdate];
    if client {
        expect_types.push(HandshakeType::NewSessionTicket);
    }
    let error = Error::InappropriateHandshakeMessage { expect_types, got_type: kind };
    Broken::new(AlertDescription::UnexpectedMessage, error)
}

/// What an alert means. How severe the peer thinks it is says nothing in TLS 1.3.
fn alert(content: &[u8]) -> Result<Option<Event>, Broken> {
    let &[_, description] = content else {
        return Err(match content.is_empty() {
            true => Broken::new(AlertDescription::UnexpectedMessage, InvalidMessage::InvalidEmptyPayload),
            // Neither a part of one nor several (section 5.1).
            false => Broken::new(AlertDescription::DecodeError, InvalidMessage::MessageTooShort),
        });
    };
    match AlertDescription::from(description) {
        AlertDescription::CloseNotify => Ok(Some(Event::Closed)),
        // A `close_notify` is to follow.
        AlertDescription::UserCanceled => Ok(None),
        description => Err(Broken { error: Error::AlertReceived(description), alert: None }),
    }
}

pub(super) mod fuzz {
    use rustls::crypto::aws_lc_rs::cipher_suite::TLS13_AES_256_GCM_SHA384;
    use rustls::crypto::cipher::OutboundChunks;
    use rustls::{ConnectionTrafficSecrets, Tls13CipherSuite};

    use super::super::record::{MAX_CONTENT, Sealer};
    use super::*;

    fn secrets() -> (u64, ConnectionTrafficSecrets) {
        (0, ConnectionTrafficSecrets::Aes256Gcm { key: [1; 32].into(), iv: [2; 12].into() })
    }

    fn pair(suite: &Tls13CipherSuite) -> Option<(Opener, Sealer)> {
        Some((Opener::new(suite, secrets()).ok()?, Sealer::new(suite, secrets()).ok()?))
    }

    /// Reads the input as a stream of records; and then as what a peer that has the keys says: type, length and content of record after record.
    /// All that is content comes out as it went in, whatever is read at a time.
    pub(in super::super) fn parse(input: &[u8]) {
        let Some(suite) = TLS13_AES_256_GCM_SHA384.tls13() else { return };
        for client in [true, false] {
            let Some((opener, _)) = pair(suite) else { return };
            let mut reader = Reader::new(opener, client);
            let mut block = BytesMut::from(input);
            while let Ok(Some(_)) = reader.next(&mut block) {}

            let Some((opener, mut sealer)) = pair(suite) else { return };
            let (mut reader, mut block) = (Reader::new(opener, client), BytesMut::new());
            let (mut sent, mut received) = (Vec::new(), Vec::new());
            let mut rest = input;
            while let [kind, high, low, tail @ ..] = rest {
                let length = usize::from(u16::from_be_bytes([*high, *low])).min(tail.len()).min(MAX_CONTENT);
                let (content, tail) = tail.split_at(length);
                rest = tail;
                // Zeros at the end are padding, a type of zero among them.
                let mut inner = [content, &[*kind]].concat();
                inner.truncate(inner.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1));
                if inner.pop() == Some(ContentType::ApplicationData.into()) {
                    sent.append(&mut inner);
                }
                let Ok(record) = sealer.seal(ContentType::from(*kind), OutboundChunks::Single(content)) else { return };
                // In two parts, of which the first tells nothing whole.
                let (begin, end) = record.split_at(record.len() / 2);
                block.extend_from_slice(begin);
                assert!(matches!(reader.next(&mut block), Ok(None)), "half a record says nothing");
                block.extend_from_slice(end);
                loop {
                    match reader.next(&mut block) {
                        Ok(None) => break,
                        Ok(Some(Event::Content(content))) => received.extend_from_slice(&content),
                        Ok(Some(Event::Ticket(_))) => assert!(client, "servers get no tickets"),
                        Ok(Some(Event::KeyUpdate { .. })) => {
                            let Some((opener, fresh)) = pair(suite) else { return };
                            reader.rekey(opener);
                            sealer = fresh;
                        }
                        Ok(Some(Event::Closed)) => return assert_eq!(received, sent),
                        Err(broken) => {
                            assert!(sent.starts_with(&received));
                            let received = matches!(broken.error, Error::AlertReceived(_));
                            return assert_eq!(broken.alert.is_none(), received, "all but alerts are answered by one");
                        }
                    }
                }
                assert!(block.is_empty());
            }
            assert_eq!(received, sent);
        }
    }
}
