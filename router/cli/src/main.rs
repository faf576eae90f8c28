//! The program as it is shipped: the command line with the shipped plugins linked in.

use std::process::ExitCode;

// Without this line the linker drops the plugins, and no route finds its handler.
use plugins as _;

fn main() -> ExitCode {
    event_router::main()
}
