//! The paths of a door, each with its one method: an axum router that can be asked what it serves, so that the document of the API
//! (`openapi`) is held against what is really there.

use axum::{
    Router,
    handler::Handler,
    routing::{self, MethodRouter},
};
use http::Method;

/// Paths that belong together.
pub(crate) struct Paths<S = ()> {
    router: Router<S>,
    all: Vec<(Method, String)>,
}

/// What answers one method of a path.
pub(crate) struct Served<S> {
    method: Method,
    handler: MethodRouter<S>,
}

/// Answers `GET`.
pub(crate) fn get<H: Handler<T, S>, T: 'static, S: Clone + Send + Sync + 'static>(handler: H) -> Served<S> {
    Served { method: Method::GET, handler: routing::get(handler) }
}

/// Answers `POST`.
pub(crate) fn post<H: Handler<T, S>, T: 'static, S: Clone + Send + Sync + 'static>(handler: H) -> Served<S> {
    Served { method: Method::POST, handler: routing::post(handler) }
}

impl<S: Clone + Send + Sync + 'static> Paths<S> {
    pub(crate) fn new() -> Self {
        Self { router: Router::new(), all: Vec::new() }
    }

    /// Adds a path, or another method of one.
    pub(crate) fn route(mut self, path: &str, served: Served<S>) -> Self {
        self.all.push((served.method, path.to_owned()));
        self.router = self.router.route(path, served.handler);
        self
    }

    /// Adds the paths of another.
    pub(crate) fn merge(mut self, other: Self) -> Self {
        self.all.extend(other.all);
        self.router = self.router.merge(other.router);
        self
    }

    /// Gives the handlers what they work with.
    pub(crate) fn with_state<T>(self, state: S) -> Paths<T> {
        Paths { router: self.router.with_state(state), all: self.all }
    }

    /// Puts something in front of them. `front` adds no path.
    pub(crate) fn behind(self, front: impl FnOnce(Router<S>) -> Router<S>) -> Self {
        Self { router: front(self.router), all: self.all }
    }

    /// What is served, in no order.
    #[cfg(test)]
    pub(crate) fn all(&self) -> &[(Method, String)] {
        &self.all
    }

    /// The paths for axum, which tells nobody what they are.
    pub(crate) fn into_router(self) -> Router<S> {
        self.router
    }
}
