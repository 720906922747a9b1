//! The floor of one hop on tasks: what becomes of few heavy connections where a runtime moves them between threads, and
//! where each thread keeps its own, without a proxy's work around it.

use std::{
    io,
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use socket2::{Domain, Socket, Type};
use tokio::{
    io::copy_bidirectional,
    runtime::Builder,
    sync::mpsc::{self, UnboundedReceiver, UnboundedSender},
    task::LocalSet,
};

/// Connections that wait to be accepted.
const BACKLOG: i32 = 4096;

/// How connections come to threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Tasks {
    /// One runtime, which moves a task to whatever thread has nothing to do.
    Stealing,
    /// A runtime on each thread; the kernel spreads connections over them, by a hash of their addresses.
    Own,
    /// The same, and a thread with clearly more connections than another hands it a new one, as workers of Lacis do.
    Settled,
}

/// Where connections come to: one socket for each thread that accepts.
///
/// # Errors
/// When the address cannot be bound.
pub fn bind(listen: SocketAddr, how: Tasks, threads: usize) -> io::Result<Vec<TcpListener>> {
    let (mut address, mut all) = (listen, Vec::new());
    for _ in 0..if how == Tasks::Stealing { 1 } else { threads } {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
        socket.set_reuse_port(how != Tasks::Stealing)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        let listener = TcpListener::from(socket);
        address = listener.local_addr()?;
        all.push(listener);
    }
    Ok(all)
}

/// Relays what comes to the listeners of [`bind`] to `target`, each connection over one of its own, on so many threads,
/// until the process ends.
///
/// # Errors
/// When the machine fails; never for a single connection.
pub fn relay(listeners: Vec<TcpListener>, target: SocketAddr, how: Tasks, threads: usize) -> io::Result<()> {
    if how == Tasks::Stealing {
        let runtime = Builder::new_multi_thread().worker_threads(threads).enable_io().build()?;
        for listener in listeners {
            // On a thread of the runtime, as what it accepts.
            runtime.block_on(runtime.spawn(accept(listener, target))).map_err(io::Error::other)??;
        }
        return Ok(());
    }
    let (mailboxes, letters): (Vec<_>, Vec<_>) = listeners.iter().map(|_| mpsc::unbounded_channel()).unzip();
    let connections = mailboxes.iter().map(|_| AtomicUsize::new(0)).collect();
    let all = Arc::new(Threads { connections, mailboxes, settles: how == Tasks::Settled });
    let own = |(number, (listener, letters)): (usize, (TcpListener, _))| {
        let all = Arc::clone(&all);
        thread::spawn(move || {
            let runtime = Builder::new_current_thread().enable_io().build()?;
            runtime.block_on(LocalSet::new().run_until(serve(listener, letters, all, number, target)))
        })
    };
    let running: Vec<_> = listeners.into_iter().zip(letters).enumerate().map(own).collect();
    running.into_iter().try_for_each(|thread| thread.join().map_err(|_| io::Error::other("a thread panicked"))?)
}

/// For all threads of a runtime that steals.
async fn accept(listener: TcpListener, target: SocketAddr) -> io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    loop {
        let (stream, _) = listener.accept().await?;
        tokio::spawn(pipe(stream, target));
    }
}

/// What the threads know of each other.
#[derive(Debug)]
struct Threads {
    connections: Vec<AtomicUsize>,
    mailboxes: Vec<UnboundedSender<TcpStream>>,
    settles: bool,
}

async fn serve(
    listener: TcpListener,
    mut letters: UnboundedReceiver<TcpStream>,
    all: Arc<Threads>,
    number: usize,
    target: SocketAddr,
) -> io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => {
                let (stream, _) = accepted?;
                let counts: Vec<usize> = all.connections.iter().map(|n| n.load(Ordering::Relaxed)).collect();
                match elsewhere(&counts, number).filter(|_| all.settles).and_then(|other| all.mailboxes.get(other)) {
                    Some(other) => {
                        // Its thread runs as long as this one.
                        let _ = other.send(stream.into_std()?);
                        continue;
                    }
                    None => stream,
                }
            }
            Some(stream) = letters.recv() => tokio::net::TcpStream::from_std(stream)?,
        };
        all.connections[number].fetch_add(1, Ordering::Relaxed);
        let all = Arc::clone(&all);
        tokio::task::spawn_local(async move {
            pipe(stream, target).await;
            all.connections[number].fetch_sub(1, Ordering::Relaxed);
        });
    }
}

/// Where a connection that this thread accepted goes, if another has clearly fewer: the rule of Lacis' workers.
fn elsewhere(counts: &[usize], mine: usize) -> Option<usize> {
    let (least, place) = counts.iter().copied().zip(0..).min()?;
    (counts.get(mine)? >= &(least + 2)).then_some(place)
}

/// Bytes both ways, until both ends have said all, or one fails.
async fn pipe(mut from: tokio::net::TcpStream, target: SocketAddr) {
    let Ok(mut to) = tokio::net::TcpStream::connect(target).await else { return };
    if from.set_nodelay(true).is_ok() && to.set_nodelay(true).is_ok() {
        // A connection that breaks is nobody's failure but its own.
        let _ = copy_bidirectional(&mut from, &mut to).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    #[test]
    fn each_way_forwards() {
        for how in [Tasks::Stealing, Tasks::Own, Tasks::Settled] {
            let target = TcpListener::bind("127.0.0.1:0").unwrap();
            let to = target.local_addr().unwrap();
            let listeners = bind("127.0.0.1:0".parse().unwrap(), how, 2).unwrap();
            assert_eq!(listeners.len(), if how == Tasks::Stealing { 1 } else { 2 });
            let at = listeners[0].local_addr().unwrap();
            thread::spawn(move || relay(listeners, to, how, 2));
            thread::spawn(move || {
                for stream in target.incoming() {
                    let mut stream = stream.unwrap();
                    thread::spawn(move || io::copy(&mut stream.try_clone().unwrap(), &mut stream));
                }
            });
            let mut clients: Vec<_> = (0..8).map(|_| TcpStream::connect(at).unwrap()).collect();
            for (number, client) in clients.iter_mut().enumerate() {
                let (sent, mut came) = ([number as u8; 100], [0; 100]);
                client.write_all(&sent).unwrap();
                client.read_exact(&mut came).unwrap();
                assert_eq!(came, sent, "{how:?}");
            }
        }
    }

    #[test]
    fn one_with_clearly_more_hands_over() {
        assert_eq!(elsewhere(&[0, 0], 0), None);
        assert_eq!(elsewhere(&[1, 0], 0), None, "one more is not clearly more");
        assert_eq!(elsewhere(&[2, 0], 0), Some(1));
        assert_eq!(elsewhere(&[2, 0], 1), None);
        assert_eq!(elsewhere(&[4, 3, 1, 1], 1), Some(2), "the first of the least");
    }
}
