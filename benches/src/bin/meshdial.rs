//! `meshdial`: mutually authenticated connections, opened to see what they cost. See `benches/README.md`.

use clap::{Parser, Subcommand};
use lacis_benches::dial::{Connection, Dialer};
use std::{
    error::Error,
    io::{self, BufRead, Write},
    net::SocketAddr,
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};
use tokio::{
    runtime,
    task::{JoinSet, LocalSet},
};

/// Connections that are opened at once while many are opened.
const AT_ONCE: usize = 16;

/// Mutually authenticated connections (TLS 1.3, ALPN h2), opened to see what they cost the server.
#[derive(Debug, Parser)]
struct Arguments {
    /// The server.
    #[arg(long, global = true, value_name = "ADDRESS", default_value = "127.0.0.1:15006")]
    target: SocketAddr,
    /// The directory of `alpha.pem` and `alpha-key.pem`, as `lacis cert issue alpha` makes it.
    #[arg(long, global = true, value_name = "DIRECTORY", default_value = "certs")]
    certs: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Open and close connections for a while, and print as JSON how many and what they cost.
    Rate {
        /// Connections that are being opened at any time.
        #[arg(long, value_name = "NUMBER", default_value_t = 8)]
        parallel: usize,
        /// Resume sessions.
        #[arg(long)]
        resume: bool,
        /// Seconds before the window.
        #[arg(long, value_name = "SECONDS", default_value_t = 0.5)]
        warmup: f64,
        /// Seconds that are measured.
        #[arg(long, value_name = "SECONDS", default_value_t = 3.0)]
        seconds: f64,
        /// A process whose use of the processors is reported; may be given several times.
        #[arg(long = "pid", value_name = "PID")]
        pids: Vec<u32>,
    },
    /// For each number that comes on standard input, open or close connections until so many are open, and say so.
    Hold,
}

fn main() -> ExitCode {
    match work(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("meshdial: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn open_one(dialer: Dialer) -> io::Result<Connection> {
    dialer.open().await
}

fn work(arguments: Arguments) -> Result<(), Box<dyn Error>> {
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    let resume = matches!(arguments.command, Command::Rate { resume: true, .. });
    let dialer = Dialer::new(arguments.target, &arguments.certs, resume)
        .map_err(|error| format!("certificates in {}: {error}", arguments.certs.display()))?;
    let mut output = io::stdout().lock();
    match arguments.command {
        Command::Rate { parallel, warmup, seconds, pids, .. } => {
            let (warmup, window) = (Duration::try_from_secs_f64(warmup)?, Duration::try_from_secs_f64(seconds)?);
            let found = LocalSet::new().block_on(&runtime, dialer.handshakes(parallel, warmup, window, &pids))?;
            writeln!(output, "{}", serde_json::to_string(&found)?)?;
        }
        Command::Hold => {
            let mut open = Vec::new();
            for line in io::stdin().lock().lines() {
                let wanted: usize = line?.trim().parse()?;
                open.truncate(wanted);
                while open.len() < wanted {
                    let at_once = AT_ONCE.min(wanted - open.len());
                    runtime.block_on(async {
                        let mut opening: JoinSet<_> = (0..at_once).map(|_| open_one(dialer.clone())).collect();
                        while let Some(opened) = opening.join_next().await {
                            open.push(opened??);
                        }
                        Ok::<_, Box<dyn Error>>(())
                    })?;
                }
                writeln!(output, "{}", serde_json::json!({ "open": open.len() }))?;
            }
        }
    }
    Ok(())
}
