//! The table of cases. A case is a function named by the behaviour that it shows; the table says what it needs.

mod admin;
mod delivery;
mod lifecycle;
mod load;
mod restart;
mod routing;
mod settlement;

use router_api::BoxFuture;

use super::{
    Need,
    bench::{Bench, CaseResult},
};

pub(super) struct Case {
    pub name: &'static str,
    pub needs: &'static [Need],
    pub run: for<'a> fn(&'a mut Bench) -> BoxFuture<'a, CaseResult>,
}

macro_rules! cases {
    ($($module:ident :: $case:ident $([$($need:ident),+])?),+ $(,)?) => {
        &[$(Case { name: stringify!($case), needs: &[$($(Need::$need),+)?], run: |bench| Box::pin($module::$case(bench)) }),+]
    };
}

pub(super) const CASES: &[Case] = cases![
    routing::an_event_reaches_every_route_that_wants_it_once,
    routing::patterns_follow_the_topic_rules,
    routing::an_event_that_nobody_wants_is_safe_but_not_routed,
    routing::the_filter_is_asked_before_an_event_is_queued [FiltersAtIntake],
    routing::a_body_that_is_no_json_reaches_every_route_that_its_key_fits,
    routing::an_event_sent_to_a_route_passes_by_patterns_and_filter,
    routing::an_event_sent_to_a_route_with_a_delay_comes_after_it,
    routing::an_event_sent_to_an_unknown_route_is_refused,
    routing::a_new_route_collects_as_soon_as_it_is_bound,
    routing::a_route_that_is_no_longer_bound_keeps_what_waits_and_collects_no_more,
    routing::a_changed_pattern_counts_as_soon_as_it_is_bound,
    routing::a_route_that_nobody_consumes_keeps_what_comes,
    delivery::a_delivery_says_what_it_carries,
    delivery::deliveries_come_in_the_order_of_publication,
    delivery::the_prefetch_bounds_what_is_in_hand,
    delivery::a_wait_that_is_given_up_loses_nothing,
    delivery::a_queue_without_a_route_cannot_be_consumed,
    delivery::competing_consumers_share_a_queue [CompetingConsumers],
    delivery::a_held_lane_is_handed_out_only_when_it_is_free [HoldsLanes],
    delivery::a_body_of_a_mebibyte_comes_back_byte_for_byte,
    settlement::an_event_that_failed_comes_back_with_its_history,
    settlement::a_long_history_loses_its_middle_but_not_its_count,
    settlement::an_event_that_waits_blocks_nobody,
    settlement::several_deliveries_are_settled_as_one,
    settlement::a_window_is_settled_in_any_order,
    settlement::a_buried_event_lies_in_the_dead_letters_byte_for_byte,
    settlement::several_buried_deliveries_make_a_dead_letter_each,
    settlement::a_settlement_that_fails_gives_the_deliveries_back [FailSettles],
    settlement::a_broken_session_gives_back_what_was_in_hand [LoseSession],
    settlement::a_done_key_is_in_the_inbox_of_its_route [InboxInSettlement],
    settlement::the_archive_says_what_became_of_an_event [Archives],
    lifecycle::leaving_gives_back_what_is_unfinished_in_order_and_uncounted,
    lifecycle::a_closed_consumer_is_over,
    lifecycle::closing_ends_a_wait,
    lifecycle::a_closed_transport_ends_its_consumers_and_takes_nothing,
    restart::what_waits_survives_a_restart [Persistent, Restart],
    restart::what_is_in_hand_survives_a_kill_uncounted [Persistent, Kill],
    restart::attempts_and_due_times_survive_a_restart [Persistent, Restart],
    restart::dead_letters_survive_a_restart [Persistent, Restart],
    restart::what_is_settled_stays_settled_after_a_kill [Persistent, Kill],
    admin::dead_letters_are_listed_newest_first_and_by_route_and_reason,
    admin::a_redriven_event_comes_back_to_its_route_alone_with_its_history,
    admin::a_discarded_dead_letter_is_gone,
    admin::queues_say_what_waits_what_is_in_hand_and_what_is_dead,
    admin::only_the_queue_of_a_route_that_is_not_bound_can_be_removed,
    load::concurrent_publishers_and_consumers_lose_and_repeat_nothing,
    load::closing_under_load_loses_and_repeats_nothing,
    load::rebinding_under_load_loses_nothing,
];
