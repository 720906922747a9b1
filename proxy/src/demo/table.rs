//! The table: drawn over itself on a terminal, one line after another elsewhere, and whole at the end.

use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use super::mesh::Mesh;
use super::view::{Counts, View};

/// The table on standard output.
pub(super) struct Screen {
    terminal: bool,
    /// Lines of the table that stand there now.
    drawn: usize,
    /// Time and requests of the last update.
    last: (Duration, u64),
}

impl Screen {
    pub(super) fn new() -> Self {
        Screen { terminal: io::stdout().is_terminal(), drawn: 0, last: (Duration::ZERO, 0) }
    }

    /// What is said first: the beginning may take a while.
    pub(super) fn begin() -> io::Result<()> {
        write(
            "alpha ── http ─▶ sidecar ══ h3, mutual TLS ══▶ sidecar ── http ─▶ delta\n\n\
             Starting the sidecars. The first time they compile their filters.\n",
        )
    }

    /// What stands above the table.
    pub(super) fn introduce(mesh: &Mesh) -> io::Result<()> {
        write(&format!("{}\n", mesh.introduction()))
    }

    /// What is now.
    pub(super) fn update(&mut self, view: &View) -> io::Result<()> {
        let (elapsed, requests) = std::mem::replace(&mut self.last, (view.elapsed, view.requests));
        let rate = rate(view.requests.saturating_sub(requests), view.elapsed.saturating_sub(elapsed));
        if self.terminal { self.draw(view, rate) } else { write(&line(view, rate)) }
    }

    /// What was, from beginning to end.
    pub(super) fn finish(&mut self, view: &View) -> io::Result<()> {
        let rate = rate(view.requests, view.elapsed);
        if self.terminal { self.draw(view, rate) } else { write(&table(view, rate)) }
    }

    fn draw(&mut self, view: &View, rate: f64) -> io::Result<()> {
        let table = table(view, rate);
        // Up to the first line and clear from there; lines that are too long are cut, or one could not go up by their
        // number.
        let up = if self.drawn > 0 { format!("\x1b[{}A", self.drawn) } else { String::new() };
        self.drawn = table.lines().count();
        write(&format!("{up}\r\x1b[J\x1b[?7l{table}\x1b[?7h"))
    }
}

fn write(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

fn rate(requests: u64, time: Duration) -> f64 {
    if time.is_zero() { 0.0 } else { requests as f64 / time.as_secs_f64() }
}

/// The whole table.
fn table(view: &View, rate: f64) -> String {
    let mut text = String::new();
    let mut row = |name: &str, value: String| {
        // A string takes everything.
        let _ = writeln!(text, "{name:<19}{value}");
    };
    let wanted = view.wanted.map(|wanted| format!(" of {wanted}")).unwrap_or_default();
    let seconds = view.elapsed.as_secs_f64();
    row("requests", format!("{}{wanted} in {seconds:.1} s, {rate:.0}/s; {} went wrong", view.requests, view.wrong));
    row("latency", format!("p50 {}, p99 {}, as alpha sees it", ms(view.median), ms(view.p99)));
    row("status", list(&view.statuses));
    row("link", format!("{}; {} handshakes", list(&view.links), view.handshakes));
    for (sidecar, filter, outcomes) in &view.verdicts {
        row(&format!("{sidecar}: {filter}"), list(outcomes));
    }
    row("counted by metrics", list(&view.counted));
    row("delta was called", list(&view.names));
    row("delta's callers", list(&view.callers));
    text
}

/// The table in one line.
fn line(view: &View, rate: f64) -> String {
    let verdicts: String = view
        .verdicts
        .iter()
        .map(|(sidecar, filter, outcomes)| format!("  {sidecar}/{filter}: {}", list(outcomes)))
        .collect();
    format!(
        "{:6.1} s  {} requests  {rate:.0}/s  p50 {}  p99 {}  status {}  link {}{verdicts}\n",
        view.elapsed.as_secs_f64(),
        view.requests,
        ms(view.median),
        ms(view.p99),
        list(&view.statuses),
        list(&view.links),
    )
}

/// `200 45, 401 5`.
fn list(counts: &Counts) -> String {
    if counts.is_empty() {
        return "none yet".into();
    }
    counts.iter().map(|(name, count)| format!("{name} {count}")).collect::<Vec<_>>().join(", ")
}

fn ms(time: Duration) -> String {
    format!("{:.2} ms", time.as_secs_f64() * 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view() -> View {
        let counts = |items: &[(&str, u64)]| items.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect();
        View {
            elapsed: Duration::from_millis(2500),
            wanted: Some(500),
            requests: 50,
            wrong: 0,
            median: Duration::from_micros(1234),
            p99: Duration::from_micros(56_789),
            statuses: counts(&[("200", 45), ("401", 5)]),
            links: counts(&[("h3", 50)]),
            handshakes: 2,
            verdicts: vec![
                ("alpha", "routing", counts(&[("continue", 50)])),
                ("delta", "metrics", counts(&[])),
                ("delta", "auth", counts(&[("continue", 45), ("reply", 5)])),
            ],
            counted: counts(&[("blue_2xx", 16), ("red_4xx", 5)]),
            names: counts(&[("delta", 35), ("delta-canary", 10)]),
            callers: counts(&[("spiffe://demo.local/ns/default/sa/alpha", 45)]),
        }
    }

    #[test]
    fn the_table_is_as_people_know_it() {
        let text = table(&view(), rate(50, Duration::from_millis(2500))) + &line(&view(), 99.6);
        assert_eq!(text, include_str!("table.golden"), "the table changed:\n{text}");
    }

    #[test]
    fn a_table_is_drawn_over_the_one_before() {
        let mut screen = Screen { terminal: true, drawn: 0, last: (Duration::ZERO, 0) };
        screen.update(&view()).unwrap();
        assert_eq!(screen.drawn, 10);
        assert_eq!(screen.last, (Duration::from_millis(2500), 50));
    }
}
