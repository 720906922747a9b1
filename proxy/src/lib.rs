//! Lacis: a service-mesh sidecar that is programmed in WebAssembly.
//!
//! The modules stand in layers; each imports only from lower ones (a test in `lacis-tests` reads the sources and
//! enforces it). The data path: an application's or a peer's connection is accepted by a worker (`worker`), served
//! by one of three protocols (`http`), and each request runs through one function (`mesh::hop`).

// Layer 0: words.
pub mod fault;
pub mod identity;
// Layer 1: settings and signals.
pub mod clock;
pub mod config;
pub mod drain;
pub mod telemetry;
// Layer 2: wires.
pub mod http;
pub mod net;
pub mod tls;
// Layer 3: decisions.
pub mod cluster;
pub mod filter;
pub mod policy;
pub mod route;
// Layer 4: the story.
pub mod mesh;
// Layer 5: a worker.
pub mod worker;
// Layer 6: around the workers.
pub mod admin;
pub mod control;
// Layer 7: the process.
pub mod app;
pub mod cli;
pub mod demo;
