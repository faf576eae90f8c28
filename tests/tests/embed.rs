//! The example of a router inside another program does what it says.

#[path = "../examples/embed.rs"]
mod embed;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_of_ones_own_runs_the_router_and_hears_what_became_of_an_event() {
    let directory = tempfile::tempdir().expect("a temporary directory can be made");
    std::fs::write(directory.path().join("router.toml"), embed::ROUTER_TOML).expect("the configuration can be written");
    let fate = embed::run(directory.path()).await.expect("the example runs");
    assert_eq!(fate, "route `log-orders` has handled `order.placed`");
    assert!(directory.path().join("router.db").exists(), "the store is where the configuration says");
}

#[tokio::test]
async fn a_configuration_that_is_wrong_is_shown_with_its_line() {
    let directory = tempfile::tempdir().expect("a temporary directory can be made");
    std::fs::write(directory.path().join("router.toml"), "[[route]]\nname = \"a\"\non = [\"b\"]\nhandler = \"logg\"\n")
        .expect("the configuration can be written");
    let error = embed::run(directory.path()).await.expect_err("there is no such plugin").to_string();
    assert!(error.contains("router.toml:4") && error.contains("did you mean `log`"), "{error}");
}
