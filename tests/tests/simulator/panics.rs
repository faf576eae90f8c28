//! Panics of the router itself, which catches them: heard by a hook, thread by thread.

use std::{cell::RefCell, sync::Once};

thread_local! {
    static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
    static LISTENS: RefCell<bool> = const { RefCell::new(false) };
}

/// From now on panics of this thread are findings. Handlers that are to panic do so past the hook.
pub fn listen() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if LISTENS.with_borrow(|listens| *listens) {
                PANIC.with_borrow_mut(|panic| *panic = Some(info.to_string()));
            } else {
                before(info);
            }
        }));
    });
    LISTENS.with_borrow_mut(|listens| *listens = true);
}

/// Panics are the test's own again.
pub fn ignore() {
    LISTENS.with_borrow_mut(|listens| *listens = false);
}

pub fn is_there() -> bool {
    PANIC.with_borrow(Option::is_some)
}

pub fn take() -> Option<String> {
    PANIC.with_borrow_mut(Option::take)
}
