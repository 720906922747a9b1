//! Certificates that were verified before. A peer opens many connections with one certificate, and what it says and who
//! signed it is the same each time: only the time has to be looked at again, and that the peer has the key, which the
//! handshake itself proves.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::UNIX_EPOCH;

use rustls::pki_types::{CertificateDer, UnixTime};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::verify::{Peer, sha256, time};

/// Chains that are remembered, some 2 KiB each: as many peers as a service has at a time. Only members of the mesh get in;
/// when one more does, it begins anew.
pub(super) const MAX_CHAINS: usize = 256;

/// Bytes of a chain that is remembered at the most: a leaf and three authorities with RSA keys of 4096 bits have 8 KiB. A handshake
/// may bring 64 KiB, most of them certificates that lead nowhere; such a chain is verified each time. So all that are
/// remembered have 4 MiB and their leaves once more.
pub(super) const MAX_CHAIN_BYTES: usize = 16 * 1024;

/// What a chain is verified for: a certificate that may be a client's need not be a server's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Whoever has connected.
    Client,
    /// Whoever has answered.
    Server,
}

/// The chains that one trust bundle leads to. Another bundle has others: nothing of this outlives it.
#[derive(Default)]
pub(super) struct Known(Mutex<HashMap<(Role, [u8; 32]), Chain>>);

struct Chain {
    /// Of the leaf, whose digest is the key.
    intermediates: Box<[CertificateDer<'static>]>,
    /// When all of its certificates are valid, in seconds since 1970, both included (RFC 5280 section 4.1.2.5).
    from: u64,
    until: u64,
    peer: Arc<Peer>,
}

impl Known {
    /// Whose chain this is, if exactly it was verified before and all of it is valid now. Else it has to be verified.
    pub(super) fn find(
        &self,
        role: Role,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Option<Arc<Peer>> {
        let chains = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let chain = chains.get(&(role, sha256(leaf)))?;
        let same = *chain.peer.certificate == **leaf && *chain.intermediates == *intermediates;
        (same && (chain.from..=chain.until).contains(&now.as_secs())).then(|| Arc::clone(&chain.peer))
    }

    /// Remembers a chain that was verified, and whose it is. One that cannot be read as a whole, or is long, is not remembered.
    pub(super) fn add(
        &self,
        role: Role,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        peer: Arc<Peer>,
    ) {
        let bytes = leaf.len() + intermediates.iter().map(|der| der.len()).sum::<usize>();
        if bytes > MAX_CHAIN_BYTES {
            return;
        }
        let (mut from, mut until) = (0, u64::MAX);
        for der in [leaf].into_iter().chain(intermediates) {
            let Ok((_, certificate)) = X509Certificate::from_der(der) else { return };
            let seconds = |asn1| time(asn1).duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
            from = from.max(seconds(certificate.validity().not_before));
            until = until.min(seconds(certificate.validity().not_after));
        }
        let intermediates = intermediates.iter().map(|der| der.clone().into_owned()).collect();
        let mut chains = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if chains.len() >= MAX_CHAINS {
            chains.clear();
        }
        chains.insert((role, sha256(leaf)), Chain { intermediates, from, until, peer });
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.lock().expect("no panic").len()
    }
}
