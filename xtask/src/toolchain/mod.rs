//! What building needs beyond stable Rust and a C compiler, and where it comes from.
//!
//! ```text
//!  rustc -vV ──▶ Compiler ──▶ rust_src   the standard library's source of exactly this compiler
//!                        └──▶ linker     bpf-linker against exactly this compiler's LLVM
//!                 tools                  programs of the system, asked for together
//!                 envoy                  the peer of the end-to-end tests
//! ```
//!
//! Everything is kept in `target/toolchain/<compiler>`, so that another compiler gets its own and a
//! second run finds all of it in no time. The user's toolchain is changed by rustup or not at all.

mod apt;
mod compiler;
pub(crate) mod envoy;
mod linker;
mod rust_src;
pub(crate) mod rustup;
pub(crate) mod tools;

pub(crate) use compiler::Compiler;
pub(crate) use linker::Linker;
pub(crate) use rust_src::RustSrc;
