//! Work on another thread that may lose its purpose.

use tokio::sync::watch;

/// Held for as long as the work is wanted.
#[derive(Debug)]
pub struct Wish {
    _wanted: watch::Sender<()>,
}

/// By what the work sees that nobody wants it any more; by default somebody always does.
#[derive(Clone, Debug, Default)]
pub struct Stop(Option<watch::Receiver<()>>);

impl Wish {
    /// It is wanted until this is dropped.
    pub fn new() -> (Wish, Stop) {
        let (wanted, stop) = watch::channel(());
        (Wish { _wanted: wanted }, Stop(Some(stop)))
    }
}

impl Stop {
    /// Whether nobody wants it any more.
    pub fn is_due(&self) -> bool {
        self.0.as_ref().is_some_and(|wanted| wanted.has_changed().is_err())
    }

    /// Waits until nobody does.
    pub async fn due(&self) {
        match self.0.clone() {
            Some(mut wanted) => while wanted.changed().await.is_ok() {},
            None => std::future::pending().await,
        }
    }
}
