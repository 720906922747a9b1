//! What the admin listener shows of the configuration and the workers.

mod clusters;
mod config;
mod filters;

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value, json};
use tokio::sync::oneshot;

pub(super) use self::clusters::{checks, clusters, sources};
pub(super) use self::config::config;
pub(super) use self::filters::{filter_part, filters, missing};
use crate::admin::{Heard, gather};
use crate::control::generations::{Entry, Generations, State};
use crate::telemetry::why::Explanation;
use crate::tls::settings::date;
use crate::worker::{Order, Peers, Report};

/// Asks every worker how it is, and its `clusters`.
pub(super) fn ask(peers: &Peers, clusters: bool) -> Vec<impl Future<Output = Option<Report>> + use<>> {
    let mut asked: Vec<oneshot::Receiver<Report>> = Vec::new();
    peers.tell(|| {
        let (answer, report) = oneshot::channel();
        asked.push(report);
        Order::Report { clusters, answer }
    });
    asked.into_iter().map(|report| async move { report.await.ok() }).collect()
}

/// `/requests`: what the workers know of the last requests, the newest first.
pub(super) fn requests(peers: &Peers, id: Option<&str>, most: usize) -> impl Future<Output = Vec<Explanation>> + use<> {
    let id: Option<Arc<str>> = id.map(Arc::from);
    let mut asked: Vec<oneshot::Receiver<Vec<Explanation>>> = Vec::new();
    peers.tell(|| {
        let (answer, records) = oneshot::channel();
        asked.push(records);
        Order::Requests(id.clone(), most, answer)
    });
    let asked = asked.into_iter().map(|records| async move { records.await.ok() }).collect::<Vec<_>>();
    async move {
        let heard = gather(asked).await;
        let mut all: Vec<Explanation> = heard.iter().filter_map(Heard::said).flatten().cloned().collect();
        all.sort_by_key(|record| Reverse(record.started()));
        all.truncate(most);
        all
    }
}

/// `/generations`: the newest first.
pub(super) async fn generations(asked: Vec<impl Future<Output = Option<Report>>>, known: Rc<Generations>) -> Value {
    let heard = gather(asked).await;
    let running = |number: u64| {
        let of_worker = |report: &Report| report.generations.iter().find(|(own, _)| *own == number).map(|(_, n)| *n);
        heard.iter().filter_map(Heard::said).filter_map(of_worker).fold(None, |sum, n| Some(sum.unwrap_or(0) + n))
    };
    let current = known.current();
    let show = |Entry { number, time, files, state }: Entry| {
        let (state, error) = match state {
            State::Rejected(why) => ("rejected", Some(why)),
            State::Accepted if number == current => ("active", None),
            State::Accepted if running(number).is_some() => ("draining", None),
            State::Accepted => ("ended", None),
        };
        json!({
            "number": number,
            "state": state,
            "time": date(time),
            "files": files,
            "in_flight": running(number).unwrap_or(0),
            "error": error,
        })
    };
    let entries = known.entries();
    // Those that end for so long that they are no longer remembered.
    let numbers = |report: &Report| report.generations.iter().map(|(number, _)| *number).collect::<Vec<_>>();
    let forgotten: BTreeSet<_> = heard
        .iter()
        .filter_map(Heard::said)
        .flat_map(numbers)
        .filter(|number| *number < current && entries.iter().all(|entry| entry.number != *number))
        .collect();
    let forgotten = forgotten
        .into_iter()
        .rev()
        .map(|number| json!({ "number": number, "state": "draining", "in_flight": running(number).unwrap_or(0) }));
    let on = |report: &Report| {
        let number = report.generations.first().map(|(number, _)| json!(number));
        Map::from_iter(number.map(|number| ("generation".to_owned(), number)))
    };
    json!({
        "current": current,
        "generations": entries.iter().cloned().map(show).chain(forgotten).collect::<Vec<_>>(),
        "workers": workers(&heard, on),
    })
}

fn workers(heard: &[Heard<Report>], fields: impl Fn(&Report) -> Map<String, Value>) -> Vec<Value> {
    heard.iter().enumerate().map(|(worker, heard)| heard.show(worker, &fields)).collect()
}

fn word(healthy: Option<bool>) -> &'static str {
    match healthy {
        None => "unknown",
        Some(true) => "healthy",
        Some(false) => "unhealthy",
    }
}

fn seconds(duration: Duration) -> f64 {
    duration.as_secs_f64()
}
