//! Dead letters on the broker: listed, shown, tried again and deleted by commands, beside the router that buried them and without it.

use router_tests::eventually;

use crate::world::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dead_letters_are_handled_from_anywhere_without_a_store() {
    let world = World::new(ROUTES);
    let service = world.serve();
    for number in 1..=3 {
        let id = format!("poison-{number}");
        service.send("poison.pill", &serde_json::from_slice(&event("poison.pill", &id)).unwrap());
    }
    let list = ["dead-letters", "list", "--flat", "--json"];
    // Through the running router, and beside it from another machine, where there is no store.
    let stranger = world.neighbour(ROUTES);
    let all = |letters: Vec<serde_json::Value>| (letters.len() == 3).then_some(letters);
    let own = eventually("three letters are there", || all(letters(world.run(&list))));
    let seen = eventually("the stranger sees them too", || all(letters(stranger.run(&list))));
    assert!(stranger.has_no_store());
    assert_eq!(seen, own, "looking takes nothing away and changes nothing");
    assert_eq!(own[0]["letter"]["reason"], "rejected", "{:#}", own[0]);
    assert!(own[0]["letter"]["history"][0]["error"].to_string().contains("bad data") || own[0].to_string().contains("bad data"), "{:#}", own[0]);
    let ids: Vec<&str> = own.iter().map(|letter| letter["id"].as_str().expect("an id")).collect();

    let shown = stranger.run(&["dead-letters", "show", ids[0], "--json"]).code(0).json();
    assert_eq!(shown["dead_letter"]["id"], ids[0]);
    let discarded = stranger.run(&["dead-letters", "discard", ids[0]]).code(0);
    assert!(discarded.stdout.contains('1'), "{discarded:?}");
    eventually("two are left", || (letters(stranger.run(&list)).len() == 2).then_some(()));
    // Redriven with the router at work, it fails again and comes back as a letter of its own.
    let _ = stranger.run(&["dead-letters", "redrive", ids[1]]).code(0);
    eventually("it is given up on again", || {
        let letters = letters(world.run(&list));
        (letters.len() == 2 && letters.iter().all(|letter| letter["id"] != ids[1])).then_some(())
    });
    let _ = service.stop();

    // Without a router the commands reach the broker themselves, and what is redriven waits in the route's queue.
    assert_eq!(letters(world.run(&list)).len(), 2);
    let _ = world.run(&["dead-letters", "redrive", "--all"]).code(0);
    assert_eq!(letters(world.run(&list)).len(), 0);
    eventually("both wait for their route", || (world.vhost.queue("services.router.poisoned")?.ready == 2).then_some(()));
}
