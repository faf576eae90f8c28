//! What an operator does to a node.

use std::time::Duration;

use serde_json::Value;

use super::{Broker, erlang::binary};

impl Broker {
    /// Makes a virtual host. Nobody may do anything in it yet.
    ///
    /// # Panics
    ///
    /// When the node refuses.
    pub fn add_vhost(&self, name: &str) {
        self.order(&format!("rabbit_vhost:add({}, <<\"tests\">>)", binary(name)));
    }

    /// Removes a virtual host with all that is in it.
    ///
    /// # Panics
    ///
    /// When there is none of this name.
    pub fn remove_vhost(&self, name: &str) {
        self.order(&format!("rabbit_vhost:delete({}, <<\"tests\">>)", binary(name)));
    }

    /// Makes a user. It may do nothing yet.
    ///
    /// # Panics
    ///
    /// When the node refuses.
    pub fn add_user(&self, name: &str, password: &str) {
        self.order(&format!("rabbit_auth_backend_internal:add_user({}, {}, <<\"tests\">>)", binary(name), binary(password)));
    }

    /// Gives a user another password.
    ///
    /// # Panics
    ///
    /// When the node refuses.
    pub fn change_password(&self, name: &str, password: &str) {
        self.order(&format!("rabbit_auth_backend_internal:change_password({}, {}, <<\"tests\">>)", binary(name), binary(password)));
    }

    /// Says what a user may do in a virtual host: three regular expressions for names.
    ///
    /// # Panics
    ///
    /// When there is no such user or virtual host.
    pub fn permit(&self, user: &str, vhost: &str, configure: &str, write: &str, read: &str) {
        let [user, vhost, configure, write, read] = [user, vhost, configure, write, read].map(binary);
        self.order(&format!("rabbit_auth_backend_internal:set_permissions({user}, {vhost}, {configure}, {write}, {read}, <<\"tests\">>)"));
    }

    /// Takes from a user what it may do in a virtual host.
    ///
    /// # Panics
    ///
    /// When there is no such user or virtual host.
    pub fn forbid(&self, user: &str, vhost: &str) {
        self.order(&format!("rabbit_auth_backend_internal:clear_permissions({}, {}, <<\"tests\">>)", binary(user), binary(vhost)));
    }

    /// Sets a policy for the queues whose name matches.
    ///
    /// # Panics
    ///
    /// When the node refuses it.
    pub fn policy(&self, vhost: &str, name: &str, pattern: &str, definition: &Value) {
        let [vhost, name, pattern, definition] = [vhost, name, pattern, &definition.to_string()].map(binary);
        self.order(&format!("rabbit_policy:parse_set({vhost}, {name}, {pattern}, {definition}, <<\"0\">>, <<\"queues\">>, <<\"tests\">>)"));
    }

    /// Closes the connections to a virtual host; clients are told the reason. How many there were.
    ///
    /// # Panics
    ///
    /// When the node does not answer.
    pub fn close_connections(&self, vhost: &str, reason: &str) -> u64 {
        let close = format!(
            "length([rabbit_networking:close_connection(P, {}) || P <- rabbit_networking:connections(), \
               case catch rabbit_networking:connection_info(P, [vhost]) of [{{vhost, V}}] -> V =:= {}; _ -> false end])",
            binary(reason),
            binary(vhost)
        );
        self.ask("", &close).as_u64().unwrap_or_default()
    }

    /// Sets the share of memory from which on publishers are blocked. Almost zero blocks them all.
    ///
    /// # Panics
    ///
    /// When the node refuses.
    pub fn memory_watermark(&self, share: f64) {
        self.order(&format!("vm_memory_monitor:set_vm_memory_high_watermark({share:.7})"));
    }

    /// Blocks all publishers, as when memory ran out.
    ///
    /// # Panics
    ///
    /// When the node refuses.
    pub fn raise_memory_alarm(&self) {
        self.memory_watermark(0.000_01);
    }

    /// Ends the memory alarm.
    ///
    /// # Panics
    ///
    /// When the node refuses.
    pub fn end_memory_alarm(&self) {
        self.memory_watermark(0.4);
    }

    /// Blocks all publishers, as when the disk is almost full.
    ///
    /// # Panics
    ///
    /// When the node refuses.
    pub fn raise_disk_alarm(&self) {
        self.order("rabbit_alarm:set_alarm({{resource_limit, disk, node()}, []})");
    }

    /// Ends the disk alarm.
    ///
    /// # Panics
    ///
    /// When the node refuses.
    pub fn end_disk_alarm(&self) {
        self.order("rabbit_alarm:clear_alarm({resource_limit, disk, node()})");
    }

    /// The alarms that are on, as the node names them.
    ///
    /// # Panics
    ///
    /// When the node does not answer.
    #[must_use]
    pub fn alarms(&self) -> Vec<String> {
        let alarms = self.ask("", "[list_to_binary(io_lib:format(\"~p\", [A])) || A <- rabbit_alarm:get_alarms()]");
        alarms.as_array().into_iter().flatten().filter_map(|alarm| alarm.as_str().map(str::to_owned)).collect()
    }

    /// Sets how long a consumer may hold an event, and how often channels opened from now on look.
    ///
    /// # Panics
    ///
    /// When the node refuses.
    pub fn acknowledgement_timeout(&self, limit: Duration, look_every: Duration) {
        let (limit, tick) = (limit.as_millis(), look_every.as_millis());
        self.order(&format!(
            "begin application:set_env(rabbit, consumer_timeout, {limit}), application:set_env(rabbit, channel_tick_interval, {tick}), ok end"
        ));
    }

    /// Lets nothing that comes to quorum queues be written any more, as on a disk that stands still. They go on answering what needs no
    /// disk.
    ///
    /// # Panics
    ///
    /// When the node refuses.
    pub fn hold_log(&self) {
        self.order(&of_log("sys:suspend"));
    }

    /// Lets it be written again.
    ///
    /// # Panics
    ///
    /// When the node refuses.
    pub fn release_log(&self) {
        self.order(&of_log("sys:resume"));
    }

    /// Holds the log from now on, so many times and each time for so long, with a moment between them, as on a disk that others keep busy.
    ///
    /// # Panics
    ///
    /// When the node refuses.
    pub fn stutter_log(&self, times: u32, hold: Duration) {
        let again = format!("Again(Wal, N) -> sys:suspend(Wal), timer:sleep({}), sys:resume(Wal), timer:sleep(20), Again(Wal, N - 1)", hold.as_millis());
        self.order(&of_log(&format!("(fun(Log) -> spawn(fun() -> (fun Again(_, 0) -> ok; {again} end)(Log, {times}) end), ok end)")));
    }

    /// An expression whose value is `ok` when it was obeyed.
    fn order(&self, expression: &str) {
        let obeyed = self.ask("", &format!("case {expression} of ok -> true; {{ok, _}} -> true; No -> list_to_binary(io_lib:format(\"~p\", [No])) end"));
        assert_eq!(obeyed, Value::Bool(true), "the node refused `{expression}`");
    }
}

/// Calls a function of one argument with the process that writes for all quorum queues of a node.
fn of_log(function: &str) -> String {
    format!("begin #{{names := #{{wal := Wal}}}} = ra_system:fetch(quorum_queues), {function}(Wal) end")
}
