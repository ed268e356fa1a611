//! The `interceptor` binary: everything is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    interceptor::cli::main(std::env::args_os())
}
