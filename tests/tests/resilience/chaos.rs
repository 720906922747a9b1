//! Chaos: under load, one backend after the other is killed, stopped, made to break connections, to fail, to be slow and
//! to hang. Ten minutes at 1,000 requests a second: `LACIS_CHAOS_SECONDS=600`, with `LACIS_CHAOS_SEED` for another sequence.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use lacis_tests::wire::Wire;
use lacis_tests::{block_on, on_links, runtime, until};
use serde_json::json;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

use super::{Act, Backend, Net, OK, lock};

/// Callers without a rate, and with one: so many requests may be on their way while an endpoint hangs.
const CALLERS: [usize; 2] = [8, 1024];

/// Requests a second, where the time is given.
const RATE: u64 = 1000;

/// Requests between one misfortune and the next: without a rate, and with one.
const ROUND: [u64; 2] = [120, 2 * RATE];

/// Misfortunes without a given time: each kind once.
const MISFORTUNES: [&str; 6] = ["killed", "stopped", "reset", "failing", "slow", "silent"];

/// What all callers share.
struct Load {
    outbound: SocketAddr,
    /// Requests that may leave; as many as one likes without a rate.
    may: Option<Semaphore>,
    stop: AtomicBool,
    done: AtomicU64,
    /// Statuses by method; 0 for a connection that broke.
    statuses: Mutex<BTreeMap<(&'static str, u16), u64>>,
    /// Ids of GET requests that were not answered 200.
    lost: Mutex<Vec<(String, u16)>>,
    /// Of one request in 16.
    times: Mutex<Vec<Duration>>,
}

impl Load {
    /// One after the other, until the end. One in three is a payment.
    async fn call(&self, caller: usize) {
        let mut wire = None;
        for n in 0u64.. {
            if let Some(may) = &self.may {
                match may.acquire().await {
                    Ok(permit) => permit.forget(),
                    Err(_) => return,
                }
            }
            if self.stop.load(Ordering::SeqCst) {
                return;
            }
            let pays = n % 3 == 0;
            let (method, id) =
                if pays { ("POST", format!("pay-{caller}-{n}")) } else { ("GET", format!("{caller}-{n}")) };
            let start = Instant::now();
            let status = match self.ask(&mut wire, method, &id).await {
                Ok(status) => status,
                Err(_) => {
                    wire = None;
                    0
                }
            };
            if n % 16 == 0 {
                lock(&self.times).push(start.elapsed());
            }
            *lock(&self.statuses).entry((method, status)).or_default() += 1;
            if !pays && status != 200 {
                lock(&self.lost).push((id, status));
            }
            self.done.fetch_add(1, Ordering::SeqCst);
        }
    }

    async fn ask(&self, wire: &mut Option<Wire<TcpStream>>, method: &str, id: &str) -> std::io::Result<u16> {
        let wire = match wire {
            Some(wire) => wire,
            None => wire.insert(Wire::new(TcpStream::connect(self.outbound).await?)),
        };
        let length = if method == "POST" { "content-length: 3\r\n\r\npay" } else { "\r\n" };
        wire.send(format!("{method} / HTTP/1.1\r\nhost: delta\r\nx-request-id: {id}\r\n{length}").as_bytes()).await?;
        let head = wire.head().await?.ok_or(std::io::ErrorKind::UnexpectedEof)?;
        wire.body(head.response_framing(method)?).await?;
        Ok(head.status())
    }
}

on_links! {
    /// No request is lost that may be repeated, for there is always an endpoint that is well; none arrives twice that may
    /// not.
    [H2, H3] fn chaos(link) {
        let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
        let (seconds, seed) = (number("LACIS_CHAOS_SECONDS"), number("LACIS_CHAOS_SEED").unwrap_or(7));
        let paced = usize::from(seconds.is_some());
        let backends: Vec<Backend> = (0..3).map(|_| Backend::new(|_, _| OK)).collect();
        let service = json!({
            "retries": {"attempts": 5, "on": ["connect_failure", "refused_stream", "reset", "gateway_error"],
                "budget": "100%", "per_try_timeout": "2s"},
            "outliers": {"consecutive": 3, "ejection": "500ms", "max_ejection": "1s", "max_ejected": "67%"},
            "timeouts": {"connect": "2s", "request": "40s"},
        });
        let mut net = Net::new(link, &[&backends[0], &backends[1], &backends[2]], service);
        let load = Arc::new(Load {
            outbound: net.alpha.outbound(),
            may: seconds.map(|_| Semaphore::new(0)),
            stop: AtomicBool::new(false),
            done: AtomicU64::new(0),
            statuses: Mutex::default(),
            lost: Mutex::default(),
            times: Mutex::default(),
        });
        let callers: Vec<_> = (0..CALLERS[paced]).map(|caller| {
            let load = load.clone();
            runtime().spawn(async move { load.call(caller).await })
        }).collect();
        if paced == 1 {
            let load = load.clone();
            runtime().spawn(async move {
                let mut tick = tokio::time::interval(Duration::from_millis(10));
                while !load.stop.load(Ordering::SeqCst) {
                    tick.tick().await;
                    load.may.as_ref().expect("a rate").add_permits(RATE as usize / 100);
                }
            });
        }
        let more = || {
            let wanted = load.done.load(Ordering::SeqCst) + ROUND[paced];
            until("more requests are done", || (load.done.load(Ordering::SeqCst) >= wanted).then_some(()));
        };
        let (start, mut chance) = (Instant::now(), fastrand::Rng::with_seed(seed));
        let mut met = BTreeMap::<&str, u64>::new();
        for round in 0.. {
            let misfortune = match seconds {
                Some(seconds) if start.elapsed() >= Duration::from_secs(seconds) => break,
                Some(_) => MISFORTUNES[chance.usize(..MISFORTUNES.len())],
                None => match MISFORTUNES.get(round) {
                    Some(misfortune) => misfortune,
                    None => break,
                },
            };
            *met.entry(misfortune).or_default() += 1;
            let victim = chance.usize(..backends.len());
            match misfortune {
                "killed" => {
                    let listen = net.deltas[victim].inbound().to_string();
                    net.deltas[victim].signal("KILL");
                    net.deltas[victim].wait();
                    more();
                    let again = net.mesh.sidecar("delta").application_at(backends[victim].address);
                    net.deltas[victim] = again.with(json!({"inbound": {"listen": listen}})).start();
                }
                "stopped" => {
                    net.deltas[victim].signal("STOP");
                    more();
                    net.deltas[victim].signal("CONT");
                }
                "reset" => backends[victim].now(|_, _| Act::Abort),
                "failing" => backends[victim].now(|seen, _| if seen.id.ends_with('1') { OK } else { Act::Answer(503, &[]) }),
                "slow" => backends[victim].now(|_, _| Act::Late(Duration::from_millis(700))),
                _ => backends[victim].now(|_, _| Act::Silent),
            }
            more();
            backends.iter().for_each(|backend| backend.now(|_, _| OK));
            more();
        }
        load.stop.store(true, Ordering::SeqCst);
        if let Some(may) = &load.may {
            may.add_permits(CALLERS[1]);
        }
        for caller in callers {
            block_on(caller).expect("no caller panicked");
        }

        let mut paid = HashMap::<String, usize>::new();
        for backend in &backends {
            let times = lock(&backend.shared.times);
            for (id, times) in times.iter().filter(|(id, _)| id.starts_with("pay-")) {
                *paid.entry(id.clone()).or_default() += times;
            }
        }
        let twice: Vec<_> = paid.iter().filter(|(_, times)| **times > 1).collect();
        let (lost, statuses) = (lock(&load.lost), lock(&load.statuses));
        let (metrics, took) = (net.alpha.metrics(), start.elapsed());
        let mut times = lock(&load.times);
        times.sort_unstable();
        let at = |share: f64| times.get(((times.len() as f64 - 1.0) * share) as usize).copied().unwrap_or_default();
        println!(
            "chaos over {}: {} requests in {took:.1?} ({:.0}/s), seed {seed}; misfortunes {met:?}; answers {statuses:?}; \
             p50 {:.1?}, p99 {:.1?}, p99.9 {:.1?}; {} sent again, {} ejections; lost {}, paid twice {}",
            link.name(), load.done.load(Ordering::SeqCst), load.done.load(Ordering::SeqCst) as f64 / took.as_secs_f64(),
            at(0.5), at(0.99), at(0.999), metrics.sum("lacis_retries_total", &[]), metrics.sum("lacis_ejections_total", &[]),
            lost.len(), twice.len(),
        );
        assert!(lost.is_empty(), "{} requests lost: {:?}", lost.len(), &lost[..lost.len().min(20)]);
        assert!(twice.is_empty(), "{:?}", &twice[..twice.len().min(20)]);
        assert!(met.len() < MISFORTUNES.len() || metrics.sum("lacis_ejections_total", &[]) >= 1.0);
        assert!(paid.len() as u64 >= load.done.load(Ordering::SeqCst) / 10, "payments arrive: {}", paid.len());
    }
}
