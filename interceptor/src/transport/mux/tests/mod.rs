//! What a shared carrier of ours does beyond what all carriers do (`splice/tests.rs`,
//! `hbone/tests/`, `exclusive/tests/`).

mod laid_out;
mod peers;
