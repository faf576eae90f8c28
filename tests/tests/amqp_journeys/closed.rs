//! Brokers behind TLS, with client certificates, and what the management API adds.

use router_tests::{AmqpClient, Broker, eventually};
use serde_json::json;

use crate::world::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_tls_with_a_certificate_of_its_own_everything_works_and_the_management_api_tells_more() {
    let broker = Broker::options().management().tls_with_client_certificates().start();
    let mut world = World::on(std::sync::Arc::new(broker.vhost()), ROUTES);
    world.url = world.vhost.tls_url();
    let files = broker.certificates();
    let shown = |path: &std::path::Path| path.display().to_string();
    let tls = format!("tls = {{ ca = \"{}\", certificate = \"{}\", key = \"{}\" }}", shown(&files.authority), shown(&files.client), shown(&files.client_key));
    let management = format!("management_url = \"{}\"", broker.management_url());
    world.configure(&format!("{tls}\n{management}"), ROUTES);

    let mut service = world.serve();
    let begun = service.log().join("\n");
    assert!(begun.contains("the broker is `amqps://") && begun.contains(&format!("RabbitMQ {}", broker.version())), "{begun}");
    service.send("kept.one", &serde_json::from_slice(&event("kept.one", "over-tls")).unwrap());
    eventually("the event is handled", || world.home.read("seen").contains("over-tls").then_some(()));
    assert!(world.vhost.connections().len() >= 2, "{:?}", world.vhost.connections());

    // A binding that somebody else has made: AMQP cannot tell of it.
    let client = AmqpClient::connect(&world.vhost.url()).await;
    client.bind("services.router.kept", EXCHANGE, "made.by.hand").await;
    let told = eventually("the binding of another hand is told", || {
        let told = world.run(&["check", "--broker"]).code(0).stdout;
        told.contains("made.by.hand").then_some(told)
    });
    assert!(!told.contains("hunter22"), "{told}");
    let _ = service.stop();

    // Without the authority, or without a certificate of our own, nobody is let in, and it is said what to give.
    world.configure("", ROUTES);
    let refused = world.run(&["run"]).code(1);
    assert!(refused.stderr.contains("authority"), "{refused:?}");
    world.configure(&format!("tls = {{ ca = \"{}\" }}", shown(&files.authority)), ROUTES);
    let refused = world.run(&["publish", "--sample", "write"]).code(1);
    assert!(refused.stderr.contains("demands a client certificate"), "{refused:?}");
    // A management API that nobody answers at costs what it would have told, and nothing else.
    world.configure(&format!("{tls}\nmanagement_url = \"http://router:{PASSWORD}@127.0.0.1:1\""), ROUTES);
    let planned = world.run(&["check", "--broker", "--json"]).code(0).json();
    assert_eq!(planned["possible"], json!(true), "{planned:#}");
    let mut service = world.serve();
    let begun = service.log().join("\n");
    assert!(begun.contains("the version of the broker is not known") && !begun.contains(PASSWORD), "{begun}");
    let _ = service.stop();
}
