//! The event router with the plugin `{{name}}` and those that come with it.

// Without these lines the linker drops the plugins.
use plugins as _;
use {{crate}} as _;

fn main() -> std::process::ExitCode {
    event_router::main()
}
