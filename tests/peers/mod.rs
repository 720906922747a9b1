//! How the conformance tests start the peers of this directory.
//!
//! Everything here gives `None` when a peer is not installed, after a line that says how to install it: the test then
//! returns. With `LACIS_REQUIRE_PEERS=1` it fails instead.
#![allow(dead_code, unreachable_pub, reason = "shared by the conformance tests; each uses its own part")]

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;

use lacis_tests::{App, Link, Mesh, Pair, Peer, Process, Sidecar, SidecarBuilder, peer, until, unused};
use serde_json::{Value, json};

/// Identity of the calling service.
pub const ALPHA: &str = "spiffe://mesh.local/ns/default/sa/alpha";
/// Identity of the called service.
pub const DELTA: &str = "spiffe://mesh.local/ns/default/sa/delta";

/// Both sidecars, before an application that is not ours.
#[derive(Debug)]
pub struct Foreign {
    /// The caller's sidecar.
    pub alpha: Sidecar,
    /// The application's sidecar.
    pub delta: Sidecar,
    /// Their directory.
    pub mesh: Mesh,
}

impl Foreign {
    /// Starts them. `protocol` is what the application speaks: `http1` or `h2c`.
    pub fn start(link: Link, application: SocketAddr, protocol: &str) -> Foreign {
        let mesh = Mesh::new();
        let inbound = json!({"inbound": {"protocol": protocol}});
        let delta = mesh.sidecar("delta").application_at(application).with(inbound).start();
        let alpha = caller(&mesh, delta.inbound(), link);
        Foreign { alpha, delta, mesh }
    }

    /// The loopback port at alpha that means delta.
    pub fn port(&self) -> SocketAddr {
        self.alpha.service("delta")
    }

    /// `http://127.0.0.1:PORT` with this path, by that port.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.port())
    }
}

/// The usual pair with its application; see [`patient`].
pub fn pair(link: Link) -> Pair {
    Pair::with(link, App::start(), patient, |delta| delta)
}

/// The default of a second to connect is short for a debug build on a machine that compiles meanwhile.
pub fn patient(alpha: SidecarBuilder) -> SidecarBuilder {
    alpha.with(json!({"services": {"delta": {"timeouts": {"connect": "10s"}}}}))
}

/// Only the sidecar of the caller, whose link to delta ends at a foreign server.
pub fn caller(mesh: &Mesh, delta: SocketAddr, link: Link) -> Sidecar {
    let own_port = json!({"services": {"delta": {"listen": "127.0.0.1:0"}}});
    patient(mesh.sidecar("alpha").calls("delta", delta, link).with(own_port)).start()
}

/// A file of this directory.
pub fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("peers").join(name)
}

/// `--ca`, `--cert` and `--key` of a service, as every peer of ours takes them, with one dash for Go.
pub fn identity(mesh: &Mesh, service: &str, dash: &str) -> Vec<String> {
    let text = |path: PathBuf| path.to_string_lossy().into_owned();
    let pairs = [("ca", mesh.ca()), ("cert", mesh.certificate(service)), ("key", mesh.key(service))];
    pairs.into_iter().flat_map(|(name, path)| [format!("{dash}{name}"), text(path)]).collect()
}

/// The aioquic client.
#[derive(Debug)]
pub struct H3Client {
    python: Peer,
    arguments: Vec<String>,
}

impl H3Client {
    /// One that shows this certificate (see [`identity`]) and wants to talk to delta.
    pub fn new(address: SocketAddr, identity: Vec<String>) -> Option<H3Client> {
        let script = file("h3_client.py").to_string_lossy().into_owned();
        let fixed = [script, "--address".into(), address.to_string(), "--identity".into(), DELTA.into()];
        Some(H3Client { python: peer("peer-python")?, arguments: fixed.into_iter().chain(identity).collect() })
    }

    /// Adds an argument.
    pub fn arg(mut self, name: &str, value: &str) -> H3Client {
        self.arguments.extend([name.to_owned(), value.to_owned()]);
        self
    }

    /// Performs these on one connection, one after the other, and gives an answer for each.
    pub fn perform(&self, lines: &[Value]) -> Vec<Value> {
        let mut arguments = self.arguments.clone();
        arguments.extend(lines.iter().flat_map(|line| ["--do".to_owned(), line.to_string()]));
        let (code, out, err) = self.python.run(arguments);
        let answers = json_lines(&out);
        assert!(code == 0 && answers.len() == lines.len(), "h3_client: exit code {code}\n{out}\n{err}");
        answers
    }

    /// Performs one.
    pub fn request(&self, request: Value) -> Value {
        self.perform(&[json!({"request": request})]).remove(0)
    }
}

/// The aioquic server, with the identity of delta.
#[derive(Debug)]
pub struct H3Server {
    process: Process,
    /// Its UDP address.
    pub address: SocketAddr,
}

impl H3Server {
    /// Starts it. A client may have this many requests open at once on a connection.
    pub fn start(mesh: &Mesh, streams: u32) -> Option<H3Server> {
        H3Server::run(mesh, &mesh.certificate("delta"), &mesh.key("delta"), streams)
    }

    /// Starts one that shows another certificate.
    pub fn with_certificate(mesh: &Mesh, certificate: &Path, key: &Path) -> Option<H3Server> {
        H3Server::run(mesh, certificate, key, 100)
    }

    fn run(mesh: &Mesh, certificate: &Path, key: &Path, streams: u32) -> Option<H3Server> {
        let mut command = peer("peer-python")?.command();
        command.arg(file("h3_server.py")).arg("--ca").arg(mesh.ca());
        command.arg("--cert").arg(certificate).arg("--key").arg(key);
        command.args(["--client", ALPHA, "--max-streams", &streams.to_string()]);
        let process = Process::start("h3_server", command);
        let port = process.out.wait_for("its port", |lines| {
            let line: Value = serde_json::from_str(lines.first()?).ok()?;
            line["port"].as_u64()
        });
        let address = SocketAddr::from(([127, 0, 0, 1], u16::try_from(port).expect("a port")));
        Some(H3Server { process, address })
    }

    /// Everything that it told so far and that has this `event`.
    pub fn events(&self, event: &str) -> Vec<Value> {
        json_lines(&self.process.out.all().join("\n")).into_iter().filter(|line| line["event"] == event).collect()
    }

    /// Waits for an event that `pick` accepts.
    pub fn wait_for(&self, what: &str, pick: impl Fn(&Value) -> bool) -> Value {
        self.process.out.wait_for(what, |lines| json_lines(&lines.join("\n")).into_iter().find(&pick))
    }
}

/// A running nginx.
#[derive(Debug)]
pub struct Nginx {
    process: Process,
    /// Its address.
    pub address: SocketAddr,
}

impl Nginx {
    /// Starts it in the mesh's directory; `LISTEN` in `server` stands for its address.
    pub fn start(mesh: &Mesh, server: &str) -> Option<Nginx> {
        let nginx = peer("nginx")?;
        let dir = mesh.dir().join("nginx");
        fs::create_dir_all(&dir).expect("a directory");
        let address = unused();
        let server = server.replace("LISTEN", &address.to_string());
        let path = mesh.file("nginx/nginx.conf", NGINX.replace("SERVER", &server));
        let mut command = nginx.command();
        command.args(["-e", "stderr", "-p"]).arg(&dir).arg("-c").arg(path);
        let process = Process::start("nginx", command);
        until("nginx listens", || {
            assert_eq!(process.ended(), None, "nginx ended");
            TcpStream::connect(address).ok()
        });
        Some(Nginx { process, address })
    }
}

const NGINX: &str = "
daemon off; master_process off; pid nginx.pid; error_log stderr;
events { worker_connections 256; }
http {
    access_log off; keepalive_timeout 60s; keepalive_requests 100000;
    client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi;
    scgi_temp_path scgi; client_max_body_size 64m;
    server { SERVER }
}
";

/// `python3 -m http.server`, which speaks HTTP/1.0 and ends each answer with its connection.
pub fn http_server(directory: &Path) -> Option<(Process, SocketAddr)> {
    let mut command = peer("python3")?.command();
    command.args(["-u", "-m", "http.server", "0", "--bind", "127.0.0.1", "--directory"]).arg(directory);
    let process = Process::start("http.server", command);
    let port = process.out.wait_for("its port", |lines| {
        lines.first()?.split_whitespace().skip_while(|word| *word != "port").nth(1)?.parse::<u16>().ok()
    });
    Some((process, SocketAddr::from(([127, 0, 0, 1], port))))
}

/// The lines that are JSON.
pub fn json_lines(text: &str) -> Vec<Value> {
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

/// Runs a command to its end: exit code, standard output, standard error.
pub fn run(command: &mut Command) -> (i32, String, String) {
    let output = command.stdin(std::process::Stdio::null()).output().expect("runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
}
