//! The router with one more plugin.

// Without this line the linker drops the plugin, and the router says so at its start.
use greeting_router as _;

fn main() -> std::process::ExitCode {
    event_router::main()
}
