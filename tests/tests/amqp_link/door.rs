//! Who is let in, and what is said to who is not.

use router_amqp::ClientTls;
use router_api::{Transport, TransportError};
use router_tests::Broker;

use crate::house::{PATIENCE, event, options, reached, start, until};

/// What a start-up hears of a broker that does not let it in.
async fn refusal(options: router_amqp::AmqpOptions) -> String {
    let transport = start(options);
    let answer = transport.reached(PATIENCE).await;
    let published = transport.publish(event("a.b", "{}")).await;
    assert!(matches!(published, Err(TransportError::Unavailable(_))), "{published:?}");
    let condition = transport.condition();
    transport.close().await;
    match answer {
        Err(TransportError::Refused(sentence)) => {
            assert!(!condition.reachable && !condition.accepts, "{condition:?}");
            assert!(condition.troubles.contains(&sentence), "{condition:?} does not show: {sentence}");
            sentence
        }
        other => panic!("not refused: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_password_is_refused_for_good_and_never_shown() {
    let vhost = Broker::shared().vhost();
    let sentence = refusal(options(&vhost.url_as("router", "s3cret-and-wrong"))).await;
    assert!(sentence.contains("ACCESS_REFUSED") && sentence.contains("check the user and the password"), "{sentence}");
    assert!(sentence.contains(&format!("`amqp://router:***@{}/{}`", vhost.broker().address(), vhost.name())), "{sentence}");
    assert!(!sentence.contains("s3cret"), "{sentence}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_virtual_host_is_refused_and_named() {
    let sentence = refusal(options(&Broker::shared().url("nobody-made-this"))).await;
    assert!(sentence.contains("nobody-made-this") && sentence.contains("rabbitmqctl add_vhost"), "{sentence}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_without_permission_is_refused_and_told_what_to_give() {
    let vhost = Broker::shared().vhost();
    vhost.broker().add_user("stranger", "let-me-in");
    let sentence = refusal(options(&vhost.url_as("stranger", "let-me-in"))).await;
    assert!(sentence.contains("refused for user 'stranger'") && sentence.contains("rabbitmqctl set_permissions"), "{sentence}");
    assert!(!sentence.contains("let-me-in"), "{sentence}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_heals_by_itself_once_a_person_has_acted() {
    let vhost = Broker::shared().vhost();
    vhost.broker().add_user("late", "before");
    vhost.broker().permit("late", vhost.name(), ".*", ".*", ".*");
    let transport = start(options(&vhost.url_as("late", "after")));
    assert!(matches!(transport.reached(PATIENCE).await, Err(TransportError::Refused(_))));
    vhost.broker().change_password("late", "after");
    until("the new password is let in", || transport.condition().reachable).await;
    transport.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_is_not_there_is_unavailable_and_named() {
    let proxy = Broker::shared().proxy();
    let address = proxy.address();
    drop(proxy);
    let transport = start(options(&format!("amqp://router:s3cret@{address}/")));
    until("the first try has failed", || !transport.condition().troubles.iter().all(|trouble| trouble.contains("not reached yet"))).await;
    let answer = transport.reached(std::time::Duration::from_millis(1)).await;
    let Err(TransportError::Unavailable(sentence)) = answer else { panic!("{answer:?}") };
    assert!(sentence.contains(&address.to_string()) && !sentence.contains("s3cret"), "{sentence}");
    transport.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_path_of_a_slash_alone_means_the_virtual_host_of_that_name() {
    let broker = Broker::shared();
    let url = broker.url("/");
    let url = url.strip_suffix("%2F").expect("the path is the virtual host's name");
    assert!(url.ends_with('/'), "{url}");
    let transport = reached(options(url)).await;
    transport.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_is_spoken_with_an_authority_of_our_own_and_shows_a_certificate_where_one_is_demanded() {
    let broker = Broker::options().tls_with_client_certificates().start();
    let vhost = broker.vhost();
    let files = broker.certificates();
    let with = |tls: ClientTls| router_amqp::AmqpOptions { tls, ..options(&vhost.tls_url()) };
    let good = ClientTls { ca: Some(files.authority.clone()), certificate: Some(files.client.clone()), key: Some(files.client_key.clone()) };

    let transport = reached(with(good.clone())).await;
    assert!(vhost.connections().len() >= 2, "both connections: {:?}", vhost.connections());
    transport.close().await;

    // Who vouches for the broker is not known here.
    for ca in [None, Some(files.stranger.clone())] {
        let sentence = refusal(with(ClientTls { ca, ..good.clone() })).await;
        assert!(sentence.contains("UnknownIssuer") && sentence.contains("authority"), "{sentence}");
    }
    // The broker demands to see one.
    let sentence = refusal(with(ClientTls { certificate: None, key: None, ..good.clone() })).await;
    assert!(sentence.contains("demands a client certificate"), "{sentence}");
    let strange = ClientTls { certificate: Some(files.strange_client.clone()), key: Some(files.strange_client_key.clone()), ..good.clone() };
    refusal(with(strange)).await;
    // And what is wrong on this side is said before anyone is asked.
    let sentence = refusal(with(ClientTls { key: None, ..good.clone() })).await;
    assert!(sentence.contains("private key"), "{sentence}");
    let missing = files.authority.with_file_name("nothing-here.pem");
    let sentence = refusal(with(ClientTls { ca: Some(missing.clone()), ..good })).await;
    assert!(sentence.contains(&missing.display().to_string()), "{sentence}");
}
