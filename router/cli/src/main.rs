//! The program as it is shipped: the command line with the shipped plugins linked in.

use std::process::ExitCode;

// Without this line the linker drops the plugins, and no route finds its handler.
use plugins as _;

/// Events are taken up by one thread and let go of by another all the time, which the system's allocator is slow at, and the more so the
/// busier the machine is: up to a quarter of the processor time of an event. `tests/bench` measures the program with this one.
#[cfg(feature = "mimalloc")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    event_router::main()
}
