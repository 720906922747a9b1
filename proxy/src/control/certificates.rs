//! Keeps the identity fresh: reads its files again when they change, and says in time when nobody changed them.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::watch::Watcher;
use crate::config::IdentityFiles;
use crate::identity::SpiffeId;
use crate::tls::settings::{IdentityError, TlsSettings, date};

/// How often a failed reload is repeated without a change of the files: a certificate that is not valid yet becomes so.
const RETRY: Duration = Duration::from_secs(30);

/// How often the time left is looked at, at least, and how often an urgent reminder is repeated.
const LOOK: Duration = Duration::from_secs(60 * 60);

/// How often the time left is looked at, at most.
const SHORTEST: Duration = Duration::from_secs(1);

/// The identity of this process, as its files say.
pub struct Certificates {
    files: IdentityFiles,
    identity: SpiffeId,
    watcher: Watcher,
    current: Arc<TlsSettings>,
    reminder: Reminder,
    /// Why the files of now are not in use.
    failure: Option<String>,
}

impl Certificates {
    /// Reads the files, and begins to watch them.
    ///
    /// # Errors
    /// If the identity cannot be used as it is now.
    pub fn open(files: IdentityFiles, identity: SpiffeId) -> Result<Self, IdentityError> {
        let IdentityFiles { certificate, private_key, trust_bundle } = &files;
        let watcher = Watcher::new([certificate.clone(), private_key.clone(), trust_bundle.clone()]);
        let current = TlsSettings::load(&files, &identity)?;
        let certificates =
            Certificates { files, identity, watcher, current, reminder: Reminder::default(), failure: None };
        certificates.announce("certificate loaded");
        Ok(certificates)
    }

    /// What is in use.
    pub fn current(&self) -> &Arc<TlsSettings> {
        &self.current
    }

    /// Waits until other files are in use, and gives them. Files that do not fit together (yet) change nothing: what
    /// was in use stays, the log says why, and the next change is another try. Nothing is lost if the future is dropped.
    pub async fn renewed(&mut self) -> Arc<TlsSettings> {
        loop {
            let now = SystemTime::now();
            self.remind(now);
            let look = match self.failure {
                Some(_) => RETRY,
                None => self.lifetime().next(now).min(until(self.current.bundle_until(), now)).clamp(SHORTEST, LOOK),
            };
            let changed = tokio::time::timeout(look, self.watcher.changed()).await.is_ok();
            // An authority that has expired must not be trusted any longer, though no file changed.
            let lapsed = self.current.bundle_until() < SystemTime::now();
            if (changed || lapsed || self.failure.is_some()) && self.reload() {
                return self.current.clone();
            }
        }
    }

    fn reload(&mut self) -> bool {
        match TlsSettings::load(&self.files, &self.identity) {
            Ok(settings) => {
                self.current = settings;
                self.reminder = Reminder::default();
                self.failure = None;
                self.announce("certificate reloaded, new connections use it");
                true
            }
            Err(error) => {
                let error = error.to_string();
                if self.failure.as_ref() != Some(&error) {
                    tracing::warn!(%error, "certificate not reloaded, the previous one stays in use");
                    self.failure = Some(error);
                }
                false
            }
        }
    }

    fn announce(&self, message: &'static str) {
        for warning in self.current.warnings() {
            tracing::warn!("{warning}");
        }
        let (expires, bundle_expires) = (date(self.current.valid_until()), date(self.current.bundle_until()));
        tracing::info!(identity = %self.identity, %expires, %bundle_expires, "{message}");
    }

    fn remind(&mut self, now: SystemTime) {
        let Some(urgency) = self.reminder.due(self.lifetime().urgency(now), now) else { return };
        let (file, expires) = (self.files.certificate.display(), date(self.current.valid_until()));
        match urgency {
            Urgency::None => {}
            Urgency::Soon | Urgency::High => {
                tracing::warn!(certificate = %file, %expires, "certificate expires soon; issue a new one");
            }
            Urgency::Past => {
                tracing::error!(certificate = %file, %expires, "certificate has expired, peers refuse it; issue a new one");
            }
        }
    }

    fn lifetime(&self) -> Lifetime {
        Lifetime { from: self.current.valid_from(), until: self.current.valid_until() }
    }
}

/// How badly a certificate needs a successor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Urgency {
    /// More than a third of its life is left; whoever renews it does so before that, as a rule.
    None,
    /// Less than a third.
    Soon,
    /// Less than a tenth.
    High,
    /// It has expired.
    Past,
}

impl Urgency {
    /// How often it is said.
    fn period(self) -> Duration {
        match self {
            Urgency::None => Duration::MAX,
            Urgency::Soon => 24 * LOOK,
            Urgency::High | Urgency::Past => LOOK,
        }
    }
}

/// From when until when a certificate is valid.
#[derive(Clone, Copy)]
struct Lifetime {
    from: SystemTime,
    until: SystemTime,
}

impl Lifetime {
    fn urgency(self, now: SystemTime) -> Urgency {
        let (whole, left) = (until(self.until, self.from), until(self.until, now));
        if left.is_zero() {
            Urgency::Past
        } else if left < whole / 10 {
            Urgency::High
        } else if left < whole / 3 {
            Urgency::Soon
        } else {
            Urgency::None
        }
    }

    /// Until the urgency changes.
    fn next(self, now: SystemTime) -> Duration {
        let (whole, left) = (until(self.until, self.from), until(self.until, now));
        match self.urgency(now) {
            Urgency::None => left - whole / 3,
            Urgency::Soon => left - whole / 10,
            Urgency::High => left,
            Urgency::Past => Duration::MAX,
        }
    }
}

/// Says a thing when it changes, and again after a while.
#[derive(Default)]
struct Reminder {
    said: Option<(Urgency, SystemTime)>,
}

impl Reminder {
    fn due(&mut self, urgency: Urgency, now: SystemTime) -> Option<Urgency> {
        if let Some((said, when)) = self.said
            && said == urgency
            && now.duration_since(when).is_ok_and(|since| since < urgency.period())
        {
            return None;
        }
        self.said = Some((urgency, now));
        Some(urgency)
    }
}

fn until(then: SystemTime, now: SystemTime) -> Duration {
    then.duration_since(now).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;
    use crate::tls::authority;

    const LIMIT: Duration = Duration::from_secs(20);

    fn alpha() -> SpiffeId {
        SpiffeId::service("mesh.local", "default", "alpha").expect("id")
    }

    fn files(at: &Path) -> IdentityFiles {
        IdentityFiles {
            certificate: at.join("alpha.pem"),
            private_key: at.join("alpha-key.pem"),
            trust_bundle: at.join("ca.pem"),
        }
    }

    fn issue(at: &Path, days: u32) -> SystemTime {
        authority::issue(at, "alpha", "default", None, days).expect("issued").expires
    }

    #[tokio::test]
    async fn issued_again_under_a_running_sidecar() {
        let directory = tempfile::tempdir().expect("tempdir");
        let at = directory.path();
        authority::init(at, "mesh.local", 10, false).expect("init");
        let first = issue(at, 1);
        let mut certificates = Certificates::open(files(at), alpha()).expect("usable");
        let seconds = |time: SystemTime| until(time, SystemTime::UNIX_EPOCH).as_secs();
        assert_eq!(seconds(certificates.current().valid_until()), seconds(first));

        let second = issue(at, 2);
        let renewed = tokio::time::timeout(LIMIT, certificates.renewed()).await.expect("in time");
        assert_eq!(seconds(renewed.valid_until()), seconds(second));
        assert!(Arc::ptr_eq(&renewed, certificates.current()));
    }

    #[tokio::test]
    async fn a_certificate_without_its_key_changes_nothing() {
        let directory = tempfile::tempdir().expect("tempdir");
        let (at, other) = (directory.path(), directory.path().join("other"));
        authority::init(at, "mesh.local", 10, false).expect("init");
        issue(at, 1);
        let mut certificates = Certificates::open(files(at), alpha()).expect("usable");
        let before = certificates.current().clone();

        fs::create_dir(&other).expect("mkdir");
        for name in ["ca.pem", "ca-key.pem"] {
            fs::copy(at.join(name), other.join(name)).expect("copy");
        }
        issue(&other, 2);
        fs::copy(other.join("alpha.pem"), at.join("alpha.pem")).expect("copy");
        tokio::time::timeout(LIMIT, certificates.watcher.changed()).await.expect("seen");
        assert!(!certificates.reload());
        assert!(certificates.failure.as_ref().is_some_and(|why| why.contains("issued together")));
        assert!(Arc::ptr_eq(&before, certificates.current()));

        fs::copy(other.join("alpha-key.pem"), at.join("alpha-key.pem")).expect("copy");
        tokio::time::timeout(LIMIT, certificates.renewed()).await.expect("in time");
        assert_eq!(certificates.failure, None);
    }

    #[test]
    fn urgency_and_its_next_change() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let lifetime = Lifetime { from: at(1_000), until: at(4_000) };
        for (now, urgency, next) in [
            (1_000, Urgency::None, 2_000),
            (3_000, Urgency::None, 0),
            (3_001, Urgency::Soon, 699),
            (3_700, Urgency::Soon, 0),
            (3_701, Urgency::High, 299),
            (4_000, Urgency::Past, u64::MAX),
            (9_000, Urgency::Past, u64::MAX),
        ] {
            assert_eq!((lifetime.urgency(at(now)), lifetime.next(at(now)).as_secs()), (urgency, next), "at {now}");
        }
    }

    #[test]
    fn reminders_repeat() {
        let at = |hours: u32| SystemTime::UNIX_EPOCH + hours * LOOK;
        let mut reminder = Reminder::default();
        for (hour, urgency, said) in [
            (0, Urgency::None, true),
            (1, Urgency::None, false),
            (2, Urgency::Soon, true),
            (3, Urgency::Soon, false),
            (26, Urgency::Soon, true),
            (27, Urgency::High, true),
            (28, Urgency::High, true),
            (28, Urgency::High, false),
            (29, Urgency::Past, true),
        ] {
            assert_eq!(reminder.due(urgency, at(hour)).is_some(), said, "hour {hour}, {urgency:?}");
        }
    }
}
