//! The harness of the end-to-end tests: nodes and pods as network namespaces, real agents, real
//! traffic, and everything gone when a test ends.
//!
//! ```text
//!            Fabric (one test's world)
//!   ┌──────────────────────────────────────────┐
//!   │ Node a ── eth0 ┐            ┌ eth0 ── Node b
//!   │  ├ Agent       ├── switch ──┤       Agent ┤ │
//!   │  └ Pod caller  ┘     ▲      └  Pod server ┘ │
//!   └──────────────────────┼───────────────────┘
//!                        Wire (what really left a node)
//! ```
//!
//! A node is a network namespace in which the real agent runs; a pod is a network namespace
//! behind it with an IPv4 and an IPv6 address of its own. Applications are threads of the test
//! process that entered the pod's namespace, so a test is one function that reads from top to
//! bottom. Every name carries the test process' id: tests run in parallel, and what a killed run
//! left behind is swept by the next one.
//!
//! Not here: the tests (`tests/e2e/`), the demonstration and the benchmark (`src/bin/`), which
//! use the same fabric.
#![forbid(unsafe_code)]

pub mod access;
pub mod agent;
pub mod apps;
pub mod bench;
pub mod calls;
pub mod cgroup;
pub mod demo;
pub mod envoy;
pub mod fabric;
pub mod host;
pub mod http;
pub mod interruption;
pub mod manifests;
pub mod metrics;
pub mod netns;
pub mod node;
pub mod pod;
pub mod rogue;
pub mod settings;
pub mod sweep;
pub mod wait;
pub mod wire;
pub mod world;
