//! What a request says, in one number: equal for a repetition, different for anything else.
//!
//! Time limits are not in it, nor are secret headers, which may be renewed between two tries.

use router_api::{Effect, EffectRequest};
use sha2::{Digest, Sha256};

use crate::hex;

/// The digest of an effect, in hexadecimal digits.
pub(super) fn of(effect: &Effect) -> String {
    let mut parts = Parts(Sha256::new());
    parts.add(effect.name.as_bytes());
    match &effect.request {
        EffectRequest::Http(request) => {
            parts.add(b"http");
            parts.add(request.method.to_string().as_bytes());
            parts.add(request.url.as_str().as_bytes());
            parts.add(&request.body);
            for header in request.headers.iter().filter(|header| !header.secret) {
                parts.add(header.name.to_ascii_lowercase().as_bytes());
                parts.add(header.value.as_bytes());
            }
        }
        EffectRequest::Command(request) => {
            parts.add(b"command");
            parts.add(request.program.name().as_bytes());
            parts.add(request.program.path().map(|path| path.as_os_str().as_encoded_bytes()).unwrap_or_default());
            parts.count(request.args.len());
            request.args.iter().for_each(|arg| parts.add(arg.as_bytes()));
            parts.maybe(request.cwd.as_ref().map(|cwd| cwd.as_os_str().as_encoded_bytes()));
            parts.count(request.env.len());
            for (name, value) in &request.env {
                parts.add(name.as_bytes());
                parts.add(value.as_bytes());
            }
            parts.maybe(request.stdin.as_deref());
        }
        EffectRequest::Own { input } => {
            parts.add(b"own");
            parts.add(input.to_string().as_bytes());
        }
    }
    hex(&parts.0.finalize())
}

/// Lengths keep ("ab", "c") and ("a", "bc") apart.
struct Parts(Sha256);

impl Parts {
    fn count(&mut self, count: usize) {
        self.0.update((count as u64).to_be_bytes());
    }

    fn add(&mut self, part: &[u8]) {
        self.count(part.len());
        self.0.update(part);
    }

    fn maybe(&mut self, part: Option<&[u8]>) {
        self.0.update([u8::from(part.is_some())]);
        self.add(part.unwrap_or_default());
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use router_api::{CommandRequest, EffectKind, Endpoint, HttpRequest, Method, Program};
    use serde_json::json;

    use super::*;

    fn digest(request: EffectRequest) -> String {
        of(&Effect { name: "e".to_owned(), kind: EffectKind::Write, request, dry_run_reply: None })
    }

    fn call(path: &str) -> HttpRequest {
        HttpRequest::new(Method::Post, Endpoint::parse(&format!("http://h/{path}")).unwrap().url())
    }

    fn run() -> CommandRequest {
        CommandRequest::new(Program::unresolved("p"))
    }

    #[test]
    fn what_changes_the_request_changes_the_digest_and_nothing_else_does() {
        let requests = [
            EffectRequest::Http(call("a")),
            EffectRequest::Http(call("b")),
            EffectRequest::Http(HttpRequest { method: Method::Put, ..call("a") }),
            EffectRequest::Http(call("a").header("x-a", "1")),
            EffectRequest::Http(call("a").header("x-a", "2")),
            EffectRequest::Http(call("a").json(&json!({ "n": 1 }))),
            EffectRequest::Command(run()),
            EffectRequest::Command(run().args(["ab", "c"])),
            EffectRequest::Command(run().args(["a", "bc"])),
            EffectRequest::Command(run().cwd("/a")),
            EffectRequest::Command(run().env("A", "1")),
            EffectRequest::Command(run().stdin("")),
            EffectRequest::Command(run().stdin("a")),
            EffectRequest::Own { input: json!(1) },
        ];
        let digests: std::collections::BTreeSet<String> = requests.iter().cloned().map(digest).collect();
        assert_eq!(digests.len(), requests.len());

        let plain = digest(EffectRequest::Http(call("a").header("X-A", "1")));
        let renewed = call("a").header("x-a", "1").secret_header("authorization", "Bearer new").timeout(Duration::from_secs(1));
        assert_eq!(digest(EffectRequest::Http(renewed)), plain);
        assert_eq!(digest(EffectRequest::Command(run().timeout(Duration::from_secs(1)))), digest(EffectRequest::Command(run())));
    }
}
