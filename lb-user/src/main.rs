//! The `mqlb` program; see [`mqlb::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    mqlb::cli::main(std::env::args_os())
}
