//! What `docs/rabbitmq.md` and the README's section on RabbitMQ tell people to type, typed; and the permissions that they name are enough
//! for everything that a router does.

use std::{fs, sync::Arc};

use router_tests::{AmqpClient, Broker, eventually, workspace};
use serde_json::json;

use crate::world::*;

fn page(name: &str) -> String {
    fs::read_to_string(workspace().join(name)).expect("the page is there")
}

/// The commands of the blocks of one kind, without their prompt.
fn commands(page: &str, kind: &str) -> Vec<String> {
    let mut commands = Vec::new();
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        if line == format!("```{kind}") {
            commands.extend(lines.by_ref().take_while(|line| *line != "```").map(|line| line.strip_prefix("$ ").expect("a command").to_owned()));
        }
    }
    commands
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_command_of_the_pages_works_beside_a_running_router() {
    let world = World::new(ROUTES);
    let service = world.serve();
    for (name, least) in [("docs/rabbitmq.md", 10), ("README.md", 3)] {
        let commands = commands(&page(name), "console broker");
        assert!(commands.len() >= least, "{name}: {commands:?}");
        for command in commands {
            let args: Vec<&str> = command.strip_prefix("event-router ").unwrap_or_else(|| panic!("{name}: {command}")).split(' ').collect();
            // The service of this test is one.
            if args != ["run"] {
                let _ = world.run(&args).code(0);
            }
        }
    }
    let _ = service.stop();
}

/// The three expressions of `set_permissions`, as the page has them.
fn permissions() -> [String; 3] {
    let commands = commands(&page("docs/rabbitmq.md"), "console rabbitmqctl");
    assert!(commands[0].starts_with("rabbitmqctl add_user router "), "{commands:?}");
    let quoted: Vec<String> =
        commands[1].strip_prefix("rabbitmqctl set_permissions router ").expect("permissions").split('\'').skip(1).step_by(2).map(str::to_owned).collect();
    quoted.try_into().expect("three of them")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_permissions_of_the_page_are_enough_for_everything() {
    let vhost = Arc::new(Broker::shared().vhost());
    let [configure, write, read] = permissions();
    // A failure that is tried again after more than a second, so that it waits on the broker.
    let routes =
        ROUTES.replace("name = \"poisoned\"", "name = \"poisoned\"\nretry = { attempts_max = 2, first_delay_ms = 1_500 }").replace("exit 65", "exit 1");
    let world = World::on(Arc::clone(&vhost), &routes);
    vhost.broker().permit(&format!("router-{}", vhost.name()), vhost.name(), &configure, &write, &read);

    let _ = world.run(&["check", "--broker"]).code(0);
    let service = world.serve();
    service.send("kept.one", &serde_json::from_slice(&event("kept.one", "with-few-rights")).unwrap());
    service.send("poison.pill", &serde_json::from_slice(&event("poison.pill", "poison-1")).unwrap());
    eventually("the event is handled", || world.home.read("seen").contains("with-few-rights").then_some(()));
    let list = ["dead-letters", "list", "--flat", "--json"];
    let found = eventually("the poison is given up on after a wait on the broker", || letters(world.run(&list)).pop());
    assert_eq!((found["letter"]["reason"].as_str(), found["letter"]["attempts"].as_u64()), (Some("exhausted"), Some(2)), "{found:#}");
    let _ = service.stop();
    let _ = world.run(&["dead-letters", "redrive", "--all"]).code(0);

    // What is there is found to be as it should, and not made again: for that nobody needs to be allowed to make anything.
    vhost.broker().permit(&format!("router-{}", vhost.name()), vhost.name(), "^$", &write, &read);
    let service = world.serve();
    service.send("kept.three", &serde_json::from_slice(&event("kept.three", "nothing-to-make")).unwrap());
    eventually("the event is handled", || world.home.read("seen").contains("nothing-to-make").then_some(()));
    let _ = service.stop();

    // Somebody else makes everything, and the router only looks.
    vhost.broker().permit(&format!("router-{}", vhost.name()), vhost.name(), "^$", &write, &read);
    world.configure("topology = \"verify\"", &routes);
    let service = world.serve();
    service.send("kept.two", &serde_json::from_slice(&event("kept.two", "only-looking")).unwrap());
    eventually("the event is handled", || world.home.read("seen").contains("only-looking").then_some(()));
    let _ = service.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_is_adopted_as_it_is_and_left_without_losing_what_waits() {
    let world = World::new(ROUTES);
    let client = AmqpClient::connect(&world.vhost.url()).await;
    client.declare_queue("agents.inbox", &json!({ "x-max-length": 1000 })).await;
    let adopting = ROUTES.replace("name = \"kept\"", "name = \"kept\"\nqueue = \"agents.inbox\"");
    world.configure("", &adopting);
    let planned = world.run(&["check", "--broker"]).code(0).stdout;
    assert!(planned.contains("adopted") && planned.contains("single active consumer"), "{planned}");
    let service = world.serve();
    service.send("kept.one", &serde_json::from_slice(&event("kept.one", "adopted-1")).unwrap());
    eventually("the adopted queue is handled", || world.home.read("seen").contains("adopted-1").then_some(()));
    let _ = service.stop();
    // It waits in the old queue while the route moves to one of its own.
    assert!(client.publish(EXCHANGE, "kept.two", &event("kept.two", "left-behind")).await);
    world.configure("", ROUTES);
    let service = world.serve();
    assert!(client.publish(EXCHANGE, "kept.three", &event("kept.three", "in-the-new-one")).await);
    eventually("the new queue is handled", || world.home.read("seen").contains("in-the-new-one").then_some(()));
    assert_eq!(world.vhost.queue("agents.inbox").map(|queue| queue.ready), Some(1), "its binding is gone, what waits is not");

    let second = world.neighbour("");
    second.configure("topology = \"off\"", &adopting.replace("[[route]]\nname = \"poisoned\"", "[[route]]\nenabled = false\nname = \"poisoned\""));
    let other = second.serve();
    eventually("what waited is handled", || second.home.read("seen").contains("left-behind").then_some(()));
    assert!(!second.home.read("seen").contains("in-the-new-one"));
    let _ = other.stop();
    let _ = service.stop();
    assert_eq!(world.vhost.queue("agents.inbox").map(|queue| (queue.ready, queue.unacked)), Some((0, 0)));
}
