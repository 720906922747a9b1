//! One filter that uses all that the SDK has: a request says by `x-do` what is done with it.

use std::cell::{Cell, RefCell};
use std::time::Duration;

use lacis_sdk::{
    Call, ConfigError, CounterFamily, End, Filter, Flow, Notify, Reads, Reply, Request, Response, Shared, Take,
    TokenBucket, join, join_all, sleep, spawn, timeout, unix_time,
};

/// The filter.
pub(crate) struct All {
    ended: CounterFamily,
    fetched: RefCell<Option<String>>,
    changed: Notify,
    herd: Notify,
    waiting: Cell<u32>,
}

/// So many wait for each other.
const HERD: u32 = 20;

/// What each of them does then.
const WORK: Duration = Duration::from_millis(3);

impl Filter for All {
    type Config = ();
    const READS: Reads = Reads::BODIES;

    fn new((): ()) -> Result<Self, ConfigError> {
        let ended = CounterFamily::new("ended_total", &["status"], 10);
        let (changed, herd) = (Notify::new(), Notify::new());
        Ok(Self { ended, fetched: RefCell::default(), changed, herd, waiting: Cell::new(0) })
    }

    async fn run(&self) {
        let answer = loop {
            // At the very beginning a host may have nobody to call yet.
            match Call::get("helper", "/bytes/3").send().await.and_then(lacis_sdk::Answer::success) {
                Ok(answer) => break answer,
                Err(_) => sleep(Duration::from_millis(20)).await,
            }
        };
        *self.fetched.borrow_mut() = Some(answer.body().len().to_string());
        self.changed.notify();
    }

    async fn on_request(&self, request: &mut Request) -> Result<Flow, Reply> {
        let what = request.headers().get("x-do").map(|what| what.to_string()).unwrap_or_default();
        request.keep(what.clone());
        let said = match what.as_str() {
            "whole" => {
                let body = request.body().await?;
                request.set_body(body.to_ascii_uppercase())?;
                format!("{} bytes", body.len())
            }
            "limit" => format!("{} bytes", request.body_up_to(10).await?.len()),
            "chunks" => {
                request.rewrite_body();
                let mut first = true;
                while let Some(mut chunk) = request.chunk().await? {
                    if std::mem::take(&mut first) {
                        chunk.replace([b"<", &chunk[..]].concat())?;
                    }
                }
                return Ok(Flow::Continue);
            }
            "drop" => {
                request.rewrite_body();
                while let Some(mut chunk) = request.chunk().await? {
                    chunk.clear()?;
                }
                return Ok(Flow::Continue);
            }
            "trailers" => {
                if let Some(trailers) = request.trailers().await?
                    && let Some(checksum) = trailers.get("x-checksum")
                {
                    trailers.set("x-end", checksum)?;
                }
                return Ok(Flow::Continue);
            }
            "call" => {
                let calls = [5, 7, 9].map(|size| Call::get("helper", &format!("/bytes/{size}")).send());
                let (all, one) = join(join_all(calls), Call::post("helper", "/echo").body("abc").send()).await;
                let mut sizes: Vec<String> = Vec::new();
                for answer in all {
                    sizes.push(answer?.success()?.body().len().to_string());
                }
                format!("{} {}", sizes.join("+"), one?.status())
            }
            "call-and-body" => {
                let size = Call::get("helper", "/bytes/5").send().await?.body().len();
                format!("{size} and {} bytes", request.body().await?.len())
            }
            "call-and-chunks" => {
                let size = Call::get("helper", "/bytes/5").send().await?.body().len();
                request.headers_mut().set("x-said", size.to_string())?;
                request.rewrite_body();
                while let Some(mut chunk) = request.chunk().await? {
                    // Something else is waited for with a piece in hand.
                    sleep(Duration::from_millis(1)).await;
                    let upper = chunk.to_ascii_uppercase();
                    chunk.replace(upper)?;
                }
                return Ok(Flow::Continue);
            }
            "nobody" => match Call::get("nobody", "/").send().await {
                Ok(_) => "somebody".to_owned(),
                Err(_) => "nobody".to_owned(),
            },
            "sleep" => {
                sleep(Duration::from_millis(30)).await;
                let late = timeout(Duration::from_millis(20), std::future::pending::<()>()).await;
                format!("{late:?}")
            }
            "spawn" => {
                let name = request.path();
                spawn(async move {
                    sleep(Duration::from_millis(5)).await;
                    let _ = Shared::<String>::new("spawned").set(&name);
                });
                "spawned".to_owned()
            }
            "spawned" => Shared::<String>::new("spawned").get().unwrap_or_default(),
            "count" => Shared::<u64>::new("count").update(|count| count.unwrap_or(0) + 1)?.to_string(),
            "bucket" => match TokenBucket::new("bucket", 2, 0.0).take(1)? {
                Take::Granted { remaining } => remaining.to_string(),
                Take::Denied { .. } => return Err(Reply::new(429)),
            },
            "background" => loop {
                if let Some(fetched) = self.fetched.borrow().clone() {
                    break fetched;
                }
                self.changed.wait().await;
            },
            "herd" => {
                self.waiting.set(self.waiting.get() + 1);
                match self.waiting.get() {
                    HERD => self.herd.notify(),
                    _ => self.herd.wait().await,
                }
                let begin = unix_time();
                while unix_time() < begin + WORK {}
                "worked".to_owned()
            }
            "late-no" => {
                Call::get("helper", "/bytes/1").send().await?;
                return Err(Reply::new(403).body("no\n"));
            }
            "foreign" => {
                std::future::pending::<()>().await;
                return Ok(Flow::Continue);
            }
            _ => return Ok(Flow::Continue),
        };
        request.headers_mut().set("x-said", said)?;
        Ok(Flow::Continue)
    }

    async fn on_response(&self, response: &mut Response) -> Result<Flow, Reply> {
        match response.kept::<String>().map(String::as_str) {
            Some("answer") => {
                let body = response.body().await?;
                let called = Call::get("helper", "/bytes/5").send().await?.body().len();
                response.headers_mut().set("x-said", format!("{} and {called}", body.len()))?;
                response.set_body([b"<", &body[..], b">"].concat())?;
            }
            Some("answer-chunks") => {
                let mut size = 0;
                while let Some(chunk) = response.chunk().await? {
                    size += chunk.len();
                }
                if let Some(trailers) = response.trailers().await? {
                    trailers.set("x-size", size.to_string())?;
                }
            }
            _ => {}
        }
        Ok(Flow::Continue)
    }

    fn on_end(&self, end: &End) {
        self.ended.with(&[&end.status().to_string()]).add(1);
    }
}

lacis_sdk::filter!(All);
