//! Bad input: whatever a manifest says, the answer is findings or a clear error, in bounded time and
//! memory, and the engine's invariants hold. And whatever a peer sends, it is data that was sealed, or an
//! error; whatever it says on a carrier, every application hears what was said to it and nothing else.
//!
//! `cargo xtask fuzz --seconds N` runs every target for that long (they run side by side); without
//! it this is a test of a second that always does the same. A finding is an input in `target/fuzz/`:
//! fix it, move the input to `found/<target>/`, and it is tried first from then on.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stderr,
    reason = "a test fails by panicking, and tells on standard error how far it came"
)]

mod bytes;
mod carriers;
mod compile;
mod engine;
mod evaluation;
mod frames;
mod large;
mod manifests;
mod records;

use std::path::Path;

#[test]
fn any_manifest_gives_findings_or_a_mesh_that_decides() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/examples");
    engine::fuzz(&manifests::TARGET, engine::inputs(&examples));
}

#[test]
fn any_policy_compiles_or_is_refused_with_its_fields() {
    engine::fuzz(&compile::TARGET, Vec::new());
}

#[test]
fn any_policies_decide_and_explain_alike() {
    engine::fuzz(&evaluation::TARGET, Vec::new());
}

#[test]
fn any_peer_is_heard_in_what_it_sealed_or_refused() {
    engine::fuzz(&records::TARGET, records::seeds());
}

#[test]
fn any_frames_are_understood_as_h2_understands_them_or_refused() {
    engine::fuzz(&frames::TARGET, frames::seeds());
}

#[test]
fn any_client_of_a_carrier_reaches_what_it_asked_for_or_nothing() {
    engine::fuzz(&carriers::server::TARGET, carriers::server::seeds());
}

#[test]
fn any_server_of_a_carrier_is_heard_on_its_stream_or_refused() {
    engine::fuzz(&carriers::client::TARGET, carriers::client::seeds());
}

#[test]
fn any_client_of_a_shared_carrier_reaches_what_it_asked_for_or_nothing() {
    engine::fuzz(&carriers::server::SHARED_TARGET, carriers::server::seeds());
}

#[test]
fn any_server_of_a_shared_carrier_is_heard_on_its_stream_or_refused() {
    engine::fuzz(&carriers::client::SHARED_TARGET, carriers::client::seeds());
}
