//! Every transport passes one suite of behaviours. What each one can do, and which cases it skips for that, is pinned here.

use router_api::Features;
use router_testkit::conformance::{self, MemoryFactory};

#[tokio::test]
async fn the_memory_transport_conforms() {
    let expected =
        Features { persistent: true, filters_at_intake: true, inbox_in_settlement: true, holds_lanes: true, archives: true, competing_consumers: true };
    conformance::run("memory", &MemoryFactory, expected).await.expect(&[]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_memory_transport_conforms_on_several_threads() {
    let expected =
        Features { persistent: true, filters_at_intake: true, inbox_in_settlement: true, holds_lanes: true, archives: true, competing_consumers: true };
    conformance::run("memory, several threads", &MemoryFactory, expected).await.expect(&[]);
}
