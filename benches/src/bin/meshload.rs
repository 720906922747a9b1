//! `meshload`: load for a proxy, the backend behind it, and what each request cost. See `benches/README.md`.

use clap::{Parser, Subcommand};
use lacis_benches::{
    load::Generator,
    plan::{Arrivals, Plan},
    relay::{
        Far, Kind, near, relay,
        tasks::{self, Tasks},
    },
};
use std::{
    error::Error,
    io::{self, BufRead, Write},
    net::{SocketAddr, TcpListener},
    process::ExitCode,
};

/// Load for a proxy, the backend behind it, and what each request cost.
#[derive(Debug, Parser)]
struct Arguments {
    /// Where the backend listens; port 0 takes a free one, which `serve` prints first.
    #[arg(long, global = true, value_name = "ADDRESS", default_value = "127.0.0.1:0")]
    backend: SocketAddr,
    /// Bytes in the body of each answer.
    #[arg(long, global = true, value_name = "BYTES", default_value_t = 1024)]
    size: usize,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Carry out one plan, and print its window as JSON.
    Run {
        /// Where the requests go; absent: to the backend, without a proxy between.
        #[arg(long, value_name = "ADDRESS")]
        target: Option<SocketAddr>,
        /// The `host` header.
        #[arg(long, value_name = "NAME", default_value = "delta")]
        host: String,
        /// Kept-alive connections; 0 only serves the backend.
        #[arg(long, value_name = "NUMBER", default_value_t = 32)]
        connections: usize,
        /// Seconds under load before the window.
        #[arg(long, value_name = "SECONDS", default_value_t = 1.0)]
        warmup: f64,
        /// Seconds that are measured.
        #[arg(long, value_name = "SECONDS", default_value_t = 5.0)]
        seconds: f64,
        /// Requests per second (open loop); absent: each connection sends when it has its answer (closed loop).
        #[arg(long, value_name = "NUMBER")]
        rate: Option<f64>,
        /// When the requests of an open loop are due.
        #[arg(long, value_enum, default_value = "constant")]
        arrivals: Arrivals,
        /// A process whose use of the processors is reported; may be given several times.
        #[arg(long = "pid", value_name = "PID")]
        pids: Vec<u32>,
    },
    /// Relay the bytes of each connection to a target, and read none of them: the floor under every proxy of one hop. With
    /// `--link` half of the floor under a pair of sidecars: all connections share one link.
    Relay {
        /// Where connections come.
        #[arg(long, value_name = "ADDRESS")]
        listen: SocketAddr,
        /// Where they go.
        #[arg(long, value_name = "ADDRESS")]
        target: SocketAddr,
        /// What lies between the two halves.
        #[arg(long, requires = "side")]
        link: Option<Kind>,
        /// Which half this is.
        #[arg(long, requires = "link")]
        side: Option<Side>,
        /// On tasks of a runtime, instead of one loop for all connections: how these come to threads.
        #[arg(long, conflicts_with = "link")]
        tasks: Option<Tasks>,
        /// How many threads.
        #[arg(long, requires = "tasks", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
        threads: u16,
    },
    /// Print the backend's address, then carry out the plans that come on standard input, a line of JSON each, and
    /// print their windows, a line of JSON each. A plan that fails answers `{"error": "…"}`.
    Serve,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Side {
    /// Connections come here, the target is the far half.
    Near,
    /// The link comes here, the target is where its connections go.
    Far,
}

fn main() -> ExitCode {
    match work(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("meshload: {error}");
            ExitCode::FAILURE
        }
    }
}

fn work(arguments: Arguments) -> Result<(), Box<dyn Error>> {
    let bind = || {
        Generator::bind(arguments.backend, arguments.size)
            .map_err(|error| format!("cannot listen on {}: {error}", arguments.backend))
    };
    let mut output = io::stdout().lock();
    match arguments.command {
        Command::Run { target, host, connections, warmup, seconds, rate, arrivals, pids } => {
            let mut generator = bind()?;
            let target = target.map_or_else(|| generator.backend(), Ok)?;
            let plan =
                Plan { target, host, connections, warmup, seconds, rate, arrivals, pids, sleeps: false, heavy: None };
            writeln!(output, "{}", serde_json::to_string_pretty(&generator.run(&plan)?)?)?;
        }
        Command::Relay { listen, target, link, side, tasks, threads } => {
            let cannot = |error| format!("cannot listen on {listen}: {error}");
            if let Some(how) = tasks {
                let threads = usize::from(threads);
                let listeners = tasks::bind(listen, how, threads).map_err(cannot)?;
                return Ok(tasks::relay(listeners, target, how, threads)?);
            }
            match (link, side) {
                (Some(link), Some(Side::Far)) => Far::bind(listen, link).map_err(cannot)?.run(target)?,
                (Some(link), Some(Side::Near)) => near(TcpListener::bind(listen).map_err(cannot)?, target, link)?,
                _ => relay(TcpListener::bind(listen).map_err(cannot)?, target)?,
            }
        }
        Command::Serve => {
            let mut generator = bind()?;
            writeln!(output, "{}", serde_json::json!({ "backend": generator.backend()? }))?;
            for line in io::stdin().lock().lines() {
                let plan: Plan = serde_json::from_str(&line?)?;
                match generator.run(&plan) {
                    Ok(window) => writeln!(output, "{}", serde_json::to_string(&window)?)?,
                    Err(error) => writeln!(output, "{}", serde_json::json!({ "error": error.to_string() }))?,
                }
            }
        }
    }
    Ok(())
}
