//! What `[transport]` promises about RabbitMQ: where the broker is said to be, what cannot work there, and that no password is shown.

use std::time::Duration;

use router_api::QueueKind;

use crate::config::{
    AmqpConfig, FixedEnvironment, Loaded, Topology, TransportConfig,
    tests::{lines, load_files},
};

const ROUTE: &str = "[[route]]\nname = 'a'\non = ['a']\nhandler = 'print'\n";

fn environment() -> FixedEnvironment {
    FixedEnvironment::default().with("BROKER", "amqp://router:hunter22@127.0.0.1:5672/")
}

async fn load_with(text: &str, environment: &FixedEnvironment) -> Result<Loaded, Vec<String>> {
    load_files(&[("router.toml", text)], environment).await.map_err(|problems| lines(&problems.report))
}

/// All that is said about a text; the first word of the result tells whether it can be used.
async fn said(text: &str, environment: &FixedEnvironment) -> (bool, Vec<String>) {
    match load_with(text, environment).await {
        Ok(loaded) => (true, lines(&loaded.report)),
        Err(lines) => (false, lines),
    }
}

async fn amqp(text: &str, environment: &FixedEnvironment) -> (AmqpConfig, Loaded) {
    let loaded = load_with(text, environment).await.unwrap_or_else(|lines| panic!("{lines:#?}"));
    match &loaded.config.transport {
        TransportConfig::Amqp(amqp) => ((**amqp).clone(), loaded),
        TransportConfig::Embedded => panic!("not on a broker"),
    }
}

fn on_broker(transport: &str, route: &str) -> String {
    format!("[transport]\nkind = 'amqp'\nurl = '${{BROKER}}'\n{transport}\n{ROUTE}{route}\n")
}

#[tokio::test]
async fn every_default_is_filled_in_and_shown_so_that_it_reads_the_same_again() {
    let (defaults, loaded) = amqp(&on_broker("", ""), &environment()).await;
    assert_eq!((defaults.exchange.as_str(), defaults.topology, defaults.queue_kind), ("bloodbank.events.v1", Topology::Declare, QueueKind::Quorum));
    assert_eq!((defaults.heartbeat, defaults.ack_timeout), (Duration::from_secs(10), Duration::from_secs(1_800)));
    assert_eq!(defaults.archive.as_ref().map(|archive| (archive.age, archive.bytes_max)), Some((Duration::from_secs(7 * 86_400), 1 << 30)));
    assert_eq!(lines(&loaded.report), [""; 0]);

    let all = "exchange = 'other.v1'\ntopology = 'verify'\nqueue_type = 'classic'\nheartbeat_s = 20\nack_timeout_s = 600\nmanagement_url = '${BROKER_UI}'\n\
               archive = { enabled = false }";
    let text = on_broker(all, "queue = 'legacy'\nparallel = true\nqueue_type = 'quorum'\ntimeout_ms = 5");
    let variables = environment().with("BROKER_UI", "http://router:hunter23@localhost:15672");
    for text in [on_broker("", ""), text] {
        let (one, loaded) = amqp(&text, &variables).await;
        let (other, again) = amqp(&loaded.config.text, &variables).await;
        assert_eq!((one, loaded.config.text), (other, again.config.text.clone()));
        assert_eq!(loaded.config.routes[0].queue, again.config.routes[0].queue);
        assert!(!again.config.text.contains("hunter"), "{}", again.config.text);
    }
}

#[tokio::test]
async fn without_a_url_the_known_variables_say_where_the_broker_is_in_their_order() {
    let text = format!("[transport]\nkind = 'amqp'\n{ROUTE}");
    let names = ["RABBIT_URL", "RABBITMQ_URL", "HOOKD_AMQP_URL"];
    for (at, name) in names.iter().enumerate() {
        let mut environment = FixedEnvironment::default();
        for later in &names[at..] {
            environment = environment.with(later, &format!("amqp://u:hunter22@localhost/{later}"));
        }
        for earlier in &names[..at] {
            environment = environment.with(earlier, " ");
        }
        let (found, loaded) = amqp(&text, &environment).await;
        assert!(found.url.reveal().ends_with(name), "{name}");
        assert!(loaded.config.text.contains(&format!("url = \"${{{name}}}\"")), "{}", loaded.config.text);
    }
    let (usable, said) = said(&text, &FixedEnvironment::default()).await;
    assert!(!usable && said.len() == 1, "{said:#?}");
    assert!(said[0].starts_with("2:8 no-broker-url: ") && names.iter().all(|name| said[0].contains(name)), "{said:#?}");
}

#[tokio::test]
async fn a_url_that_cannot_be_used_is_refused_without_being_shown() {
    for (url, expected) in [
        ("hunter22", "is no URL"),
        ("http://u:hunter22@localhost", "its scheme is neither"),
        ("amqp://u:hunter22@", "is no URL"),
        ("amqp:hunter22", "names no host"),
        ("amqp://localhost:5672/", "names no user"),
        ("amqp://u:hunter22@localhost/a/b", "more than one `/`"),
        ("amqp://u:hunter22@localhost:99999/", "is no URL"),
        ("amqp://u:hunter22@localhost/#x", "has a `#` in it"),
    ] {
        for text in [format!("[transport]\nkind = 'amqp'\nurl = '{url}'\n{ROUTE}"), format!("[transport]\nkind = 'amqp'\nurl = '${{URL}}'\n{ROUTE}")] {
            let (usable, said) = said(&text, &FixedEnvironment::default().with("URL", url)).await;
            assert!(!usable && said.iter().any(|line| line.starts_with("3:7 bad-broker-url: `url` ") && line.contains(expected)), "{url}: {said:#?}");
            let found = load_files(&[("router.toml", &text)], &FixedEnvironment::default().with("URL", url)).await.expect_err("refused");
            assert!(!found.report.render(false).contains("hunter22") || !url.contains('@'), "{}", found.report.render(false));
        }
    }
}

#[tokio::test]
async fn a_password_in_the_file_is_warned_about_and_shown_nowhere() {
    for url in ["amqp://router:hunter22@127.0.0.1/", "amqp://router:hunter22@${HOST}/", "amqp://router:hunter22@127.0.0.1/?x=@"] {
        let text = format!("[transport]\nkind = 'amqp'\nurl = '{url}'\nmanagement_url = 'http://router:hunter23@127.0.0.1'\n{ROUTE}");
        let environment = FixedEnvironment::default().with("HOST", "127.0.0.1");
        let (_, loaded) = amqp(&text, &environment).await;
        let said = lines(&loaded.report);
        assert_eq!(said.iter().filter(|line| line.contains("secret-literal")).count(), 2, "{said:#?}");
        let everything = format!("{}{}{:?}{said:?}", loaded.report.render(false), loaded.config.text, loaded.config);
        assert!(!everything.contains("hunter"), "{everything}");
        let broken = load_files(&[("router.toml", &text.replace("127.0.0.1/", "127.0.0.1/a/b"))], &environment).await;
        if let Err(problems) = broken {
            assert!(!problems.report.render(false).contains("hunter"), "{}", problems.report.render(false));
        }
    }
    // A reference is what we want to see.
    let (_, loaded) =
        amqp(&format!("[transport]\nkind = 'amqp'\nurl = 'amqp://router:${{PW}}@127.0.0.1/'\n{ROUTE}"), &FixedEnvironment::default().with("PW", "hunter22"))
            .await;
    assert_eq!(lines(&loaded.report), [""; 0]);
    assert!(loaded.config.text.contains("amqp://router:${PW}@127.0.0.1/"), "{}", loaded.config.text);
}

#[tokio::test]
async fn the_words_of_a_reference_are_no_password_and_what_stands_beside_it_is_one() {
    let mut environment = environment();
    for (name, value) in [("RABBIT_URL", "amqps://a:b@h"), ("PORT", "15671"), ("USER", "u")] {
        environment = environment.with(name, value);
    }
    for (url, management, secret) in [
        ("${RABBIT_URL}", "https://${USER:?a name, as in https://u:hunter22@h}@h", false),
        ("${RABBIT_URL:?such as amqps://u:hunter22@h}", "https://h:${PORT:?as in http://u:hunter22@h:15672}", false),
        ("${RABBIT_URL}", "https://${USER:?u}:hunter22@h", true),
    ] {
        let text = format!("[transport]\nkind = 'amqp'\nurl = '{url}'\nmanagement_url = '{management}'\n{ROUTE}");
        let report = match load_files(&[("router.toml", &text)], &environment).await {
            Ok(loaded) => loaded.report,
            Err(problems) => problems.report,
        };
        assert_eq!(lines(&report).iter().any(|line| line.contains("secret-literal")), secret, "{url} {management}: {:#?}", lines(&report));
    }
}

#[tokio::test]
async fn what_a_reference_tells_whoever_has_not_set_it_is_no_password() {
    let text = format!("[transport]\nkind = 'amqp'\nurl = '${{RABBIT_URL:?the broker, such as amqp://router:password@localhost:5672/}}'\n{ROUTE}");
    let (_, loaded) = amqp(&text, &FixedEnvironment::default().with("RABBIT_URL", "amqp://router:hunter22@127.0.0.1/")).await;
    assert_eq!(lines(&loaded.report), [""; 0]);
    assert!(!loaded.config.text.contains("hunter22"), "{}", loaded.config.text);
    let (_, said) = said(&text, &FixedEnvironment::default()).await;
    assert!(said.len() == 1 && said[0].contains("missing-value: the variable `RABBIT_URL` is not set: the broker, such as amqp://"), "{said:#?}");
    let found = load_files(&[("router.toml", &text)], &FixedEnvironment::default()).await.expect_err("it is missing");
    assert!(!found.report.render(false).contains('*'), "{}", found.report.render(false));
    // A default is written into the file, whatever it is the default of.
    let (_, loaded) =
        amqp(&text.replace(":?the broker, such as ", ":-").replace("password@localhost", "hunter22@127.0.0.1"), &FixedEnvironment::default()).await;
    assert!(lines(&loaded.report).iter().any(|line| line.contains("secret-literal")), "{:#?}", lines(&loaded.report));
}

#[tokio::test]
async fn what_is_unsafe_beyond_this_machine_is_warned_about() {
    let local = [
        "amqp://guest:x@localhost/",
        "amqp://guest:x@127.1.2.3:5672/",
        "amqp://guest:x@[::1]/",
        "amqps://u:x@broker.lan/",
        "amqps://broker.lan/?auth_mechanism=EXTERNAL",
    ];
    for url in local {
        let (usable, said) = said(&on_broker("", ""), &FixedEnvironment::default().with("BROKER", url)).await;
        assert!(usable && said.is_empty(), "{url}: {said:#?}");
    }
    for (url, expected) in [
        ("amqp://u:x@broker.lan:5672/", vec!["plaintext-broker"]),
        ("amqp://u:x@10.0.0.1/", vec!["plaintext-broker"]),
        ("amqps://guest:x@broker.lan/", vec!["guest-broker"]),
        ("amqps://u:x@broker.lan/?heartbeat=3", vec!["url-heartbeat"]),
    ] {
        let (usable, said) = said(&on_broker("", ""), &FixedEnvironment::default().with("BROKER", url)).await;
        assert!(usable && said.len() == expected.len() && said.iter().zip(&expected).all(|(line, code)| line.contains(code)), "{url}: {said:#?}");
        assert!(!said.iter().any(|line| line.contains("broker.lan")), "a value from outside is not shown: {said:#?}");
    }
    let (usable, said) = said(&on_broker("management_url = 'http://mgmt.lan:15672'\nheartbeat_s = 2", ""), &environment()).await;
    assert!(usable && said.len() == 2 && said.iter().any(|line| line.contains("short-heartbeat")), "{said:#?}");
}

#[tokio::test]
async fn keys_of_rabbitmq_without_a_kind_are_an_error_and_beside_another_kind_a_warning() {
    let (usable, without) = said(&format!("[transport]\nexchange = 'x'\nheartbeat_s = 9\n{ROUTE}"), &environment()).await;
    assert!(
        !usable && without.len() == 2 && without.iter().all(|line| line.contains("unused-transport-key") && line.contains("kind = \"amqp\"")),
        "{without:#?}"
    );
    let (usable, beside) =
        said(&format!("[transport]\nkind = 'embedded'\ntls = {{ ca = 'none.pem' }}\n{ROUTE}queue = 'x'\nparallel = true\n"), &environment()).await;
    assert!(usable, "{beside:#?}");
    let codes: Vec<_> = beside.iter().map(|line| line.split(' ').nth(1).unwrap_or_default()).collect();
    assert_eq!(codes, ["unused-transport-key:", "unused-queue-key:", "unused-queue-key:"], "{beside:#?}");
}

#[tokio::test]
async fn files_for_tls_are_there_and_come_in_pairs() {
    let tls = |tls: &str| format!("[transport]\nkind = 'amqp'\nurl = 'amqps://${{WHO}}@localhost/'\n[transport.tls]\n{tls}\n{ROUTE}");
    let environment = FixedEnvironment::default().with("WHO", "u:x").with_file("/pki/ca.pem", "…").with_file("/pki/a.pem", "…").with_file("/pki/a.key", "…");
    let (found, loaded) = amqp(&tls("ca = '/pki/ca.pem'\ncertificate = '/pki/a.pem'\nkey = '/pki/x/../a.key'"), &environment).await;
    assert_eq!(found.tls.key.as_deref(), Some(std::path::Path::new("/pki/a.key")));
    assert_eq!(lines(&loaded.report), [""; 0]);
    let (usable, missing) = said(&tls("ca = 'none.pem'\ncertificate = '/pki/a.pem'"), &environment).await;
    assert!(!usable && missing.len() == 2, "{missing:#?}");
    assert!(missing[0].starts_with("5:6 missing-file: ") && missing[0].contains("none.pem` does not exist"), "{missing:#?}");
    assert!(missing[1].contains("`tls.certificate` is of no use without `tls.key`"), "{missing:#?}");
    let (usable, plain) = said(&tls("ca = '/pki/ca.pem'").replace("amqps:", "amqp:"), &environment).await;
    assert!(!usable && plain.len() == 1 && plain[0].contains("begins with `amqp://`"), "{plain:#?}");
}

#[tokio::test]
async fn names_that_a_broker_does_not_take_or_that_are_ours_are_refused() {
    let long = "q".repeat(256);
    let umlauts = "ä".repeat(128);
    for (queue, expected) in [
        ("services.router.other", "like those that the router makes"),
        ("amq.gen-1", "like those that the broker keeps"),
        ("a\\u0007b", "control character"),
        (umlauts.as_str(), "is 256 bytes long"),
        (long.as_str(), "is 256 characters long"),
        ("", "is empty"),
    ] {
        let (usable, said) = said(&on_broker("", &format!("queue = \"{queue}\"")), &environment()).await;
        assert!(!usable && said.len() == 1 && said[0].starts_with("9:9 ") && said[0].contains(expected), "{queue}: {said:#?}");
    }
    assert!(said(&on_broker("", "queue = 'services.router.a'"), &environment()).await.0, "a route may adopt its own as it is");
    for exchange in ["a\\nb", "services.router.sys.return"] {
        let (usable, said) = said(&on_broker(&format!("exchange = \"{exchange}\""), ""), &environment()).await;
        assert!(!usable && said.len() == 1 && said[0].starts_with("4:12 bad-broker-name: "), "{said:#?}");
    }
}

#[tokio::test]
async fn two_routes_cannot_take_from_one_queue_unless_one_is_off() {
    let two = |more: &str| format!("{}[[route]]\nname = 'b'\non = ['b']\nhandler = 'print'\nqueue = 'legacy'\n{more}\n", on_broker("", "queue = 'legacy'"));
    let (usable, said_twice) = said(&two(""), &environment()).await;
    assert!(!usable && said_twice.len() == 1 && said_twice[0].starts_with("14:9 same-queue: "), "{said_twice:#?}");
    assert!(said(&two("enabled = false"), &environment()).await.0);
}

#[tokio::test]
async fn a_shared_queue_has_no_lanes() {
    for lanes in ["order_by = 'session_id'", "coalesce = { by = 'session_id', quiet_ms = 5 }"] {
        for text in [on_broker("", &format!("parallel = true\n{lanes}")), format!("{ROUTE}parallel = true\n{lanes}\n")] {
            let (usable, said) = said(&text, &environment()).await;
            assert!(!usable && said.iter().filter(|line| line.contains("parallel-lanes: `parallel` lets several routers")).count() == 1, "{said:#?}");
        }
    }
}

#[tokio::test]
async fn what_is_held_in_hand_fits_into_half_of_the_brokers_time_out() {
    for (route, at) in [
        ("timeout_ms = 300_001", Some("9:14 ack-timeout: one handling may take 300001 ms")),
        ("timeout_ms = 300_000", None),
        ("order_by = 'session_id'\nretry = { max_delay_ms = 300_001, attempts_max = 20 }", Some("10:26 ack-timeout: the first event of a lane")),
        ("order_by = 'session_id'\nretry = { max_delay_ms = 300_000, attempts_max = 20 }", None),
        // Eight attempts from one second never wait for ten minutes.
        ("order_by = 'session_id'", None),
        // Nobody holds it: it waits on the broker.
        ("retry = { max_delay_ms = 300_001, attempts_max = 20 }", None),
        ("coalesce = { by = 'session_id', quiet_ms = 5, max_wait_ms = 300_001 }", Some("9:61 ack-timeout: events of a burst")),
        ("coalesce = { by = 'session_id', quiet_ms = 30_001 }", Some("9:44 ack-timeout: events of a burst are held for up to 300010 ms")),
        ("coalesce = { by = 'session_id', quiet_ms = 30_000 }", None),
    ] {
        let (usable, said_here) = said(&on_broker("ack_timeout_s = 600", route), &environment()).await;
        assert_eq!(usable, at.is_none(), "{route}: {said_here:#?}");
        assert!(at.is_none_or(|at| said_here.len() == 1 && said_here[0].starts_with(at) && said_here[0].contains("300000 ms")), "{route}: {said_here:#?}");
        assert!(said(&format!("{ROUTE}{route}\n"), &environment()).await.0, "the embedded transport has no such time-out: {route}");
    }
    // Defaults count where the route says nothing, and are what is pointed at.
    let text = format!("{}[defaults]\ntimeout_ms = 900_001\n", on_broker("", ""));
    let (usable, said) = said(&text, &environment()).await;
    assert!(!usable && said.len() == 1 && said[0].starts_with("11:14 ack-timeout: "), "{said:#?}");
}
