//! Protected records of TLS 1.3, one by one (RFC 8446 section 5.2).

use bytes::{Buf, BytesMut};
use rustls::crypto::cipher::{
    AeadKey, InboundOpaqueMessage, Iv, MessageDecrypter, MessageEncrypter, OutboundChunks, OutboundPlainMessage,
};
use rustls::{
    AlertDescription, ConnectionTrafficSecrets, ContentType, Error, PeerMisbehaved, ProtocolVersion, Tls13CipherSuite,
};

/// The header of a record: content type, a version that means nothing any more, length.
pub(super) const HEADER: usize = 5;

/// Content of a record at most.
pub(super) const MAX_CONTENT: usize = 1 << 14;

/// What a record may have after its header: content, its type, padding, and what the cipher adds.
const MAX_PAYLOAD: usize = MAX_CONTENT + 256;

/// A record at most.
pub(super) const MAX_RECORD: usize = HEADER + MAX_PAYLOAD;

/// Records that are left of a key's limit when another one is asked for: an alert may come before that.
const RESERVE: u64 = 16;

/// Records by one key, whatever the cipher: their numbers never come near to the end.
const MAX_SEQUENCE: u64 = 1 << 48;

/// Why a connection cannot go on, and the alert that tells the peer so, if it is to be told.
#[derive(Debug)]
pub(super) struct Broken {
    pub(super) error: Error,
    pub(super) alert: Option<AlertDescription>,
}

impl Broken {
    pub(super) fn new(alert: AlertDescription, error: impl Into<Error>) -> Self {
        Broken { error: error.into(), alert: Some(alert) }
    }
}

/// Opens records.
pub(super) struct Opener {
    cipher: Box<dyn MessageDecrypter>,
    sequence: u64,
}

impl Opener {
    /// By the key of one direction, from the record with this number on.
    ///
    /// # Errors
    /// If the secrets are of a cipher that is not known here.
    pub(super) fn new(
        suite: &Tls13CipherSuite,
        (sequence, secrets): (u64, ConnectionTrafficSecrets),
    ) -> Result<Self, Error> {
        let (key, iv) = parts(secrets)?;
        Ok(Opener { cipher: suite.aead_alg.decrypter(key, iv), sequence })
    }

    /// Takes the first record out of what was read, and gives the type of its content and the content, which lies where the record lay;
    /// `None` if it is not all there yet.
    ///
    /// # Errors
    /// If it is no record, is too large, or is not the peer's next one.
    pub(super) fn open(&mut self, block: &mut BytesMut) -> Result<Option<(ContentType, BytesMut)>, Broken> {
        // The version is ignored (section 5.1).
        let Some(&[kind, _, _, high, low]) = block.first_chunk::<HEADER>() else { return Ok(None) };
        let kind = ContentType::from(kind);
        if kind != ContentType::ApplicationData {
            let error =
                Error::InappropriateMessage { expect_types: vec![ContentType::ApplicationData], got_type: kind };
            return Err(Broken::new(AlertDescription::UnexpectedMessage, error));
        }
        let length = usize::from(u16::from_be_bytes([high, low]));
        if length > MAX_PAYLOAD {
            return Err(Broken::new(AlertDescription::RecordOverflow, Error::PeerSentOversizedRecord));
        }
        if block.len() < HEADER + length {
            return Ok(None);
        }
        let mut record = block.split_to(HEADER + length);
        record.advance(HEADER);
        let start = record.as_ptr();
        let message = InboundOpaqueMessage::new(kind, ProtocolVersion::TLSv1_2, &mut record);
        let plain = self.cipher.decrypt(message, self.sequence).map_err(undecipherable)?;
        // What is left of the record after its padding and type were taken off its end.
        debug_assert_eq!(plain.payload.as_ptr(), start);
        let (kind, content) = (plain.typ, plain.payload.len());
        self.sequence = self.sequence.checked_add(1).ok_or_else(|| undecipherable(Error::DecryptError))?;
        record.truncate(content);
        Ok(Some((kind, record)))
    }
}

fn undecipherable(error: Error) -> Broken {
    let alert = match error {
        Error::PeerSentOversizedRecord => AlertDescription::RecordOverflow,
        // No type at all (section 5.4), or that of a record which is never protected.
        Error::PeerMisbehaved(_) => AlertDescription::UnexpectedMessage,
        _ => AlertDescription::BadRecordMac,
    };
    Broken::new(alert, error)
}

/// Seals records.
pub(super) struct Sealer {
    cipher: Box<dyn MessageEncrypter>,
    sequence: u64,
    /// Where another key is due.
    limit: u64,
}

impl Sealer {
    /// By the key of one direction, from the record with this number on.
    ///
    /// # Errors
    /// If the secrets are of a cipher that is not known here.
    pub(super) fn new(
        suite: &Tls13CipherSuite,
        (sequence, secrets): (u64, ConnectionTrafficSecrets),
    ) -> Result<Self, Error> {
        let (key, iv) = parts(secrets)?;
        let limit = suite.common.confidentiality_limit.min(MAX_SEQUENCE) - RESERVE;
        let mut cipher = suite.aead_alg.encrypter(key, iv);
        if sequence > 0 {
            // AWS-LC takes the first nonce that its AES-GCM for TLS sees for that of record 0, and counts from there, to refuse what does not
            // grow. So it is shown that one: what comes of it goes nowhere.
            let nothing = OutboundPlainMessage {
                typ: ContentType::ApplicationData,
                version: ProtocolVersion::TLSv1_2,
                payload: OutboundChunks::new_empty(),
            };
            cipher.encrypt(nothing, 0)?;
        }
        Ok(Sealer { cipher, sequence, limit })
    }

    /// Whether the key has protected almost as many records as it should (section 5.5).
    pub(super) fn is_worn(&self) -> bool {
        self.sequence >= self.limit
    }

    /// A record with this content, at most [`MAX_CONTENT`].
    ///
    /// # Errors
    /// If the cipher refuses, or if the key was not replaced when it was worn.
    pub(super) fn seal(&mut self, kind: ContentType, content: OutboundChunks<'_>) -> Result<Vec<u8>, Error> {
        if self.sequence >= self.limit + RESERVE {
            return Err(Error::EncryptError);
        }
        let message = OutboundPlainMessage { typ: kind, version: ProtocolVersion::TLSv1_2, payload: content };
        let sealed = self.cipher.encrypt(message, self.sequence)?;
        self.sequence += 1;
        Ok(sealed.encode())
    }

    #[cfg(test)]
    pub(super) fn wear(&mut self, records: u64) {
        self.limit = self.sequence + records;
    }
}

fn parts(secrets: ConnectionTrafficSecrets) -> Result<(AeadKey, Iv), Error> {
    match secrets {
        ConnectionTrafficSecrets::Aes128Gcm { key, iv }
        | ConnectionTrafficSecrets::Aes256Gcm { key, iv }
        | ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => Ok((key, iv)),
        _ => Err(Error::General("a cipher that is not known here".into())),
    }
}

/// The error of a peer that does what it must not.
pub(super) fn misbehaved(error: PeerMisbehaved) -> Broken {
    Broken::new(AlertDescription::UnexpectedMessage, error)
}
