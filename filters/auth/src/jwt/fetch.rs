//! Fetching the keys of issuers in the background, and waiting for them.

use std::cell::{Ref, RefCell};
use std::time::Duration;

use lacis_sdk::{Call, Counter, Notify, join_all, random_u64, timeout, unix_time};

use super::source::{Lack, Source};
use super::{Keys, Tokens};
use crate::jose::KeySet;

/// Where the keys of a provider come from, and what came.
pub(super) struct Remote {
    provider: String,
    service: String,
    path: String,
    authority: Option<String>,
    timeout: Duration,
    refresh: Duration,
    source: RefCell<Source>,
    /// A request wants the keys now.
    wanted: Notify,
    /// An attempt has ended.
    ended: Notify,
}

impl Tokens {
    /// Fetches keys as long as the filter lives.
    pub(crate) async fn keep(&self, failures: &Counter) {
        let remotes = self.providers.iter().filter_map(|provider| match &provider.keys {
            Keys::Remote(remote) => Some(&**remote),
            Keys::Inline(_) => None,
        });
        join_all(remotes.map(|remote| self.keep_of(remote, failures))).await;
    }

    async fn keep_of(&self, remote: &Remote, failures: &Counter) {
        loop {
            remote.source.borrow_mut().begin();
            let keys = remote.fetch().await;
            if let Err(error) = &keys {
                failures.add(1);
                let Remote { provider, service, path, .. } = remote;
                lacis_sdk::warn!("the keys of {provider:?} cannot be fetched from {service:?} ({path}): {error}");
            }
            let wait = self.arrived(remote, unix_time(), keys.ok());
            remote.ended.notify();
            // Not all workers and sidecars at once.
            let early = wait / 10_000 * (random_u64() % 1000) as u32;
            timeout(wait - early, remote.wanted.wait()).await;
        }
    }

    /// Waits for an attempt to fetch the keys of a provider; false if there is none to wait for.
    pub(crate) async fn wait(&self, provider: usize, now: Duration) -> bool {
        let Some(Keys::Remote(remote)) = self.providers.get(provider).map(|provider| &provider.keys) else {
            return false;
        };
        let lack = remote.source.borrow().lack(now);
        match lack {
            Lack::GiveUp => return false,
            Lack::Wait => {}
            Lack::Ask => {
                remote.source.borrow_mut().begin();
                remote.wanted.notify();
            }
        }
        timeout(remote.timeout, remote.ended.wait()).await.is_some()
    }
}

impl Remote {
    pub(super) fn new(
        provider: String,
        service: String,
        path: String,
        authority: Option<String>,
        timeout: Duration,
        refresh: Duration,
    ) -> Self {
        let (source, wanted, ended) = (RefCell::default(), Notify::new(), Notify::new());
        Self { provider, service, path, authority, timeout, refresh, source, wanted, ended }
    }

    /// What is known of the keys.
    pub(super) fn source(&self) -> Ref<'_, Source> {
        self.source.borrow()
    }

    /// Takes what an attempt brought, and says how long to wait before the next one.
    pub(super) fn arrived(&self, now: Duration, keys: Option<KeySet>) -> Duration {
        self.source.borrow_mut().arrived(now, self.refresh, keys)
    }

    async fn fetch(&self) -> Result<KeySet, String> {
        let mut call = Call::get(&self.service, &self.path).header("accept", "application/json");
        if let Some(authority) = &self.authority {
            call = call.authority(authority);
        }
        let answer = call.timeout(self.timeout).send().await.map_err(|error| error.to_string())?;
        match answer.status() {
            200 => KeySet::fetched(answer.body()),
            status => Err(format!("the answer has status {status}")),
        }
    }
}
