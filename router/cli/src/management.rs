//! The broker's management API, over the port that performs effects: reads what AMQP cannot list. Never writes.

use std::{sync::Arc, time::Duration};

use anyhow::Context as _;
use async_trait::async_trait;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use percent_encoding::percent_decode_str;
use router_amqp::Management;
use router_api::{Canceller, Effect, EffectContext, EffectKind, EffectPort, EffectReply, EffectRequest, Endpoint, HttpRequest, Method};
use serde_json::Value;
use url::Url;

/// For one answer. A management API that is busy counting is slow, and everything it says can be done without.
const LIMIT: Duration = Duration::from_secs(10);

/// The API below one address.
pub(crate) struct ManagementApi {
    effects: Arc<dyn EffectPort>,
    /// Without user and password, and without a slash at its end.
    base: String,
    authorization: Option<String>,
}

impl ManagementApi {
    /// For `http://USER:PASSWORD@HOST:PORT`, perhaps with a path in front of the API's own.
    ///
    /// # Errors
    ///
    /// When it is no such address; the sentence does not show it.
    pub(crate) fn new(url: &str, effects: Arc<dyn EffectPort>) -> anyhow::Result<Self> {
        // The parser's own sentence would quote the address.
        let mut url = Url::parse(url).ok().context("`management_url` is no URL")?;
        let authorization = (!url.username().is_empty()).then(|| {
            let decoded = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
            let (user, password) = (decoded(url.username()), decoded(url.password().unwrap_or_default()));
            format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
        });
        let without = url.set_username("").and_then(|()| url.set_password(None));
        without.ok().context("`management_url` names no host")?;
        url.set_query(None);
        url.set_fragment(None);
        Ok(Self { effects, base: url.as_str().trim_end_matches('/').to_owned(), authorization })
    }

    async fn ask(&self, path: &str) -> Result<Value, String> {
        let address = Endpoint::parse(&format!("{}{path}", self.base)).map_err(|error| error.to_string())?;
        let mut request = HttpRequest::new(Method::Get, address.url()).header("accept", "application/json").timeout(LIMIT);
        if let Some(authorization) = &self.authorization {
            request = request.secret_header("authorization", authorization);
        }
        let effect = Effect { name: "management".into(), kind: EffectKind::Read, request: EffectRequest::Http(request), dry_run_reply: None };
        let (_canceller, cancellation) = Canceller::new();
        let cx = EffectContext { route: "management".into(), handling: "management".into(), remaining: LIMIT, cancellation };
        let reply = match self.effects.perform(effect, None, &cx).await {
            Ok(EffectReply::Http(reply)) => reply,
            Ok(_) => return Err("no HTTP answer".to_owned()),
            Err(error) => return Err(error.to_string()),
        };
        match reply.status {
            200 => reply.json().map_err(|_| "the answer is no JSON, or longer than what is read".to_owned()),
            401 => Err("it does not know the user or the password (401)".to_owned()),
            403 => Err("the user may not see it: it needs the tag `monitoring` or `management` (403)".to_owned()),
            404 => Err("there is no such thing (404)".to_owned()),
            status => Err(format!("it answered {status}")),
        }
    }

    /// Name and version of the broker.
    pub(crate) async fn version(&self) -> Result<String, String> {
        let overview = Management::get(self, "/api/overview").await?;
        let text = |key: &str| overview.get(key).and_then(Value::as_str).unwrap_or("?");
        Ok(format!("{} {}", text("product_name"), text("product_version")))
    }
}

#[async_trait]
impl Management for ManagementApi {
    async fn get(&self, path: &str) -> Result<Value, String> {
        self.ask(path).await.map_err(|error| format!("the management API at `{}`: {error}", self.base))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use router_api::{BuildError, EffectError, HttpReply, OwnWork, Program};

    use super::*;

    /// Answers everything with one reply and remembers what was asked.
    struct Answers(HttpReply, Mutex<Vec<HttpRequest>>);

    #[async_trait]
    impl EffectPort for Answers {
        async fn perform(&self, effect: Effect, _: Option<OwnWork<'_>>, _: &EffectContext) -> Result<EffectReply, EffectError> {
            let EffectRequest::Http(request) = effect.request else { panic!("only HTTP") };
            self.1.lock().unwrap().push(request);
            Ok(EffectReply::Http(self.0.clone()))
        }

        fn resolve_program(&self, name: &str, _: &std::path::Path) -> Result<Program, BuildError> {
            panic!("no program `{name}`")
        }
    }

    async fn ask(url: &str, reply: HttpReply) -> (Result<Value, String>, HttpRequest) {
        let effects = Arc::new(Answers(reply, Mutex::default()));
        let api = ManagementApi::new(url, effects.clone()).unwrap();
        let answer = api.get("/api/queues/%2F/a%2Fb").await;
        let request = effects.1.lock().unwrap().remove(0);
        (answer, request)
    }

    #[tokio::test]
    async fn user_and_password_travel_in_a_header_and_the_path_is_left_as_it_is() {
        let (answer, request) = ask("http://ro%40uter:p%2Fw@127.0.0.1:15672/", HttpReply::new(200, "[1]")).await;
        assert_eq!(answer, Ok(serde_json::json!([1])));
        assert_eq!(request.url.to_string(), "http://127.0.0.1:15672/api/queues/%2F/a%2Fb");
        let header = request.headers.iter().find(|header| header.name == "authorization").unwrap();
        assert_eq!((header.value.as_str(), header.secret), (format!("Basic {}", STANDARD.encode("ro@uter:p/w")).as_str(), true));
        let (_, request) = ask("https://broker.lan/rabbit", HttpReply::new(200, "{}")).await;
        assert_eq!(request.url.to_string(), "https://broker.lan/rabbit/api/queues/%2F/a%2Fb");
        assert!(request.headers.iter().all(|header| header.name != "authorization"));
    }

    #[tokio::test]
    async fn what_goes_wrong_is_a_sentence_without_the_password() {
        for (status, body, expected) in [(401, "", "user or the password"), (403, "", "tag"), (500, "", "answered 500"), (200, "<html>", "no JSON")] {
            let (answer, _) = ask("http://router:hunter22@127.0.0.1:15672", HttpReply::new(status, body)).await;
            let error = answer.unwrap_err();
            assert!(error.starts_with("the management API at `http://127.0.0.1:15672`: ") && error.contains(expected), "{error}");
            assert!(!error.contains("hunter22"), "{error}");
        }
        let error = ManagementApi::new("hunter22", Arc::new(Answers(HttpReply::new(200, ""), Mutex::default()))).err().unwrap();
        assert!(!format!("{error:#}").contains("hunter22"), "{error:#}");
    }
}
