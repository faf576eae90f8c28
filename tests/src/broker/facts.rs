//! What a node says of itself, asked of its own processes: no management plugin, and no figure that was right a while ago.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;

use super::{
    Broker,
    erlang::{PLAIN, binary},
};

/// Longer than an election takes on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(300);

/// A node that runs and does not answer is asked so often for its queues.
const ASKED_MAX: u32 = 5;

/// A queue.
#[derive(Clone, Debug, Deserialize, PartialEq)]
pub struct QueueFacts {
    /// Its name.
    pub name: String,
    /// `classic`, `quorum` or `stream`.
    pub kind: String,
    /// Does it survive a restart?
    pub durable: bool,
    /// Its `x-…` arguments.
    pub arguments: BTreeMap<String, Value>,
    /// Events that wait. Of a stream, what it holds, a few seconds late.
    pub ready: u64,
    /// Events that consumers hold.
    pub unacked: u64,
    /// How many consumers it has.
    pub consumers: u64,
    /// The node that leads it, or that it lives on.
    pub leader: String,
    /// The nodes that have a copy.
    pub members: Vec<String>,
    /// The policy in force.
    pub policy: Option<String>,
}

/// A binding.
#[derive(Clone, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd)]
pub struct BindingFacts {
    /// The exchange that it begins at.
    pub source: String,
    /// The routing key.
    pub key: String,
    /// The queue or exchange that it leads to.
    pub destination: String,
    /// `queue` or `exchange`.
    pub destination_kind: String,
}

/// An exchange.
#[derive(Clone, Debug, Deserialize, PartialEq)]
pub struct ExchangeFacts {
    /// Its name.
    pub name: String,
    /// `topic`, `direct`, …
    pub kind: String,
    /// Does it survive a restart?
    pub durable: bool,
    /// Does it go with its last binding?
    pub auto_delete: bool,
    /// Is it closed for publishers?
    pub internal: bool,
    /// Its arguments.
    pub arguments: BTreeMap<String, Value>,
}

/// A consumer.
#[derive(Clone, Debug, Deserialize, PartialEq)]
pub struct ConsumerFacts {
    /// The queue that it consumes.
    pub queue: String,
    /// Its tag.
    pub tag: String,
    /// Does it acknowledge?
    pub acks: bool,
    /// How many events it may hold.
    pub prefetch: u64,
    /// Does it get events now, rather than stand by?
    pub active: bool,
}

/// A connection.
#[derive(Clone, Debug, Deserialize, PartialEq)]
pub struct ConnectionFacts {
    /// As the node names it: addresses and ports.
    pub name: String,
    /// As the client names itself.
    pub client_name: Option<String>,
    /// Its user.
    pub user: String,
    /// Its virtual host.
    pub vhost: String,
    /// `running`, `blocked`, `blocking`, `flow`, …
    pub state: String,
    /// How many channels it has.
    pub channels: u64,
    /// The port that it comes from, which tells a proxy's connections apart.
    pub peer_port: u16,
}

/// Defines `Count`: what a queue itself says of what it holds. The leader of a quorum queue is asked through its log, so that the
/// answer is what the cluster agrees on. `undefined` when no leader answers.
const COUNT: &str = "\
    Leader = fun(Q) -> \
        case amqqueue:get_pid(Q) of \
            {Name, _} -> \
                #{nodes := Nodes} = amqqueue:get_type_state(Q), \
                case catch ra:members([{Name, N} || N <- Nodes], 2000) of {ok, Ms, {_, _} = L} -> {L, [M || {_, M} <- Ms]}; _ -> {undefined, []} end; \
            P when is_pid(P) -> {{P, node(P)}, [node(P)]}; \
            _ -> {undefined, []} \
        end \
    end, \
    Count = fun(Q, Lead) -> \
        case amqqueue:get_type(Q) of \
            rabbit_quorum_queue -> \
                Ask = fun(F) -> case catch ra:consistent_query(Lead, F, 2000) of {ok, N, _} -> N; _ -> undefined end end, \
                {Ask(fun rabbit_fifo:query_messages_ready/1), Ask(fun rabbit_fifo:query_messages_checked_out/1), Ask(fun rabbit_fifo:query_consumer_count/1)}; \
            _ -> \
                case catch rabbit_amqqueue:info(Q, [messages_ready, messages_unacknowledged, consumers]) of \
                    [{_, R}, {_, U}, {_, C}] when is_integer(R) -> {R, if is_integer(U) -> U; true -> 0 end, if is_integer(C) -> C; true -> 0 end}; \
                    _ -> {undefined, undefined, undefined} \
                end \
        end \
    end, \
    Queue = fun(Q) -> \
        {resource, _, _, Name} = amqqueue:get_name(Q), \
        {Lead, Members} = Leader(Q), \
        {Ready, Unacked, Consumers} = Count(Q, Lead), \
        Node = case Lead of {_, N} -> N; _ -> undefined end, \
        Policy = case rabbit_policy:name(Q) of none -> null; P -> P end, \
        Kind = case amqqueue:get_type(Q) of rabbit_quorum_queue -> quorum; rabbit_stream_queue -> stream; _ -> classic end, \
        #{name => Name, kind => Kind, durable => amqqueue:is_durable(Q), arguments => Plain(table, amqqueue:get_arguments(Q)), \
          ready => Ready, unacked => Unacked, leader => Node, members => Members, consumers => Consumers, policy => Policy} \
    end, ";

impl Broker {
    /// The queues of a virtual host, by name.
    ///
    /// # Panics
    ///
    /// When the node does not answer, or a queue finds no leader.
    #[must_use]
    pub fn queues(&self, vhost: &str) -> Vec<QueueFacts> {
        self.ask_queues(&format!("Q <- rabbit_amqqueue:list({})", binary(vhost)))
    }

    /// One queue of a virtual host: the others are not asked, and may have no leader.
    ///
    /// # Panics
    ///
    /// When the node does not answer, or the queue finds no leader.
    #[must_use]
    pub fn queue(&self, vhost: &str, name: &str) -> Option<QueueFacts> {
        let name = binary(name);
        self.ask_queues(&format!("Q <- rabbit_amqqueue:list({}), element(4, amqqueue:get_name(Q)) =:= {name}", binary(vhost))).pop()
    }

    fn ask_queues(&self, chosen: &str) -> Vec<QueueFacts> {
        let list = format!("[Queue(Q) || {chosen}]");
        let definitions = format!("{PLAIN}{COUNT}");
        // While a leader is elected nobody can say how much a queue holds.
        let complete = |queue: &Value| queue["ready"].is_u64() && queue["unacked"].is_u64() && queue["consumers"].is_u64() && queue["leader"] != "undefined";
        let begun = Instant::now();
        let mut refusals = 0;
        let queues = loop {
            let open = match self.try_ask(&definitions, &list) {
                Ok(answer) => match answer.as_array().map(|queues| queues.iter().filter(|queue| !complete(queue)).cloned().collect::<Vec<_>>()) {
                    Some(open) if !open.is_empty() => format!("{open:?}"),
                    _ => break answer,
                },
                Err(why) => {
                    // Many queues without a leader take longer to say so than a node may think about a question.
                    refusals += 1;
                    assert!(self.pid().is_some() && refusals < ASKED_MAX, "{why}");
                    why
                }
            };
            assert!(begun.elapsed() < PATIENCE, "still not: every queue says what it holds; these do not: {open}");
            std::thread::park_timeout(Duration::from_millis(10));
        };
        let mut queues: Vec<QueueFacts> = facts(queues);
        queues.sort_by(|one, other| one.name.cmp(&other.name));
        queues
    }

    /// The bindings of a virtual host, without those that every queue has by its name.
    ///
    /// # Panics
    ///
    /// When the node does not answer.
    #[must_use]
    pub fn bindings(&self, vhost: &str) -> Vec<BindingFacts> {
        let list = format!(
            "[#{{source => proplists:get_value(source_name, B), key => proplists:get_value(routing_key, B), \
               destination => proplists:get_value(destination_name, B), destination_kind => proplists:get_value(destination_kind, B)}} \
               || B <- rabbit_binding:info_all({}), proplists:get_value(source_name, B) =/= <<>>]",
            binary(vhost)
        );
        let mut bindings: Vec<BindingFacts> = facts(self.ask("", &list));
        bindings.sort();
        bindings
    }

    /// The exchanges of a virtual host, without those that every one has.
    ///
    /// # Panics
    ///
    /// When the node does not answer.
    #[must_use]
    pub fn exchanges(&self, vhost: &str) -> Vec<ExchangeFacts> {
        let list = format!(
            "[begin {{resource, _, _, Name}} = proplists:get_value(name, X), \
               #{{name => Name, kind => proplists:get_value(type, X), durable => proplists:get_value(durable, X), \
                  auto_delete => proplists:get_value(auto_delete, X), internal => proplists:get_value(internal, X), \
                  arguments => Plain(table, proplists:get_value(arguments, X))}} end || X <- rabbit_exchange:info_all({})]",
            binary(vhost)
        );
        let mut exchanges: Vec<ExchangeFacts> = facts(self.ask(PLAIN, &list));
        exchanges.retain(|exchange| !exchange.name.is_empty() && !exchange.name.starts_with("amq."));
        exchanges.sort_by(|one, other| one.name.cmp(&other.name));
        exchanges
    }

    /// The consumers of a virtual host.
    ///
    /// # Panics
    ///
    /// When the node does not answer.
    #[must_use]
    pub fn consumers(&self, vhost: &str) -> Vec<ConsumerFacts> {
        let list = format!(
            "[begin {{resource, _, _, Name}} = proplists:get_value(queue_name, C), \
               #{{queue => Name, tag => proplists:get_value(consumer_tag, C), acks => proplists:get_value(ack_required, C), \
                  prefetch => proplists:get_value(prefetch_count, C), active => proplists:get_value(active, C)}} end \
               || C <- rabbit_amqqueue:consumers_all({})]",
            binary(vhost)
        );
        let mut consumers: Vec<ConsumerFacts> = facts(self.ask("", &list));
        consumers.sort_by(|one, other| (&one.queue, &one.tag).cmp(&(&other.queue, &other.tag)));
        consumers
    }

    /// The connections to the node, and to the others of its cluster.
    ///
    /// # Panics
    ///
    /// When the node does not answer.
    #[must_use]
    pub fn connections(&self) -> Vec<ConnectionFacts> {
        // One that goes while it is asked is none; one that is not open yet has no virtual host.
        let list = "[#{name => proplists:get_value(name, C), user => proplists:get_value(user, C), vhost => proplists:get_value(vhost, C), \
               state => proplists:get_value(state, C), channels => proplists:get_value(channels, C), peer_port => proplists:get_value(peer_port, C), \
               client_name => maps:get(<<\"connection_name\">>, Plain(table, proplists:get_value(client_properties, C, [])), null)} \
               || P <- rabbit_networking:connections(), \
                  C <- [case catch rabbit_networking:connection_info(P, [name, user, vhost, state, channels, peer_port, client_properties]) of \
                           L when is_list(L) -> L; _ -> [] end], \
                  is_binary(proplists:get_value(vhost, C)), is_integer(proplists:get_value(channels, C))]";
        facts(self.ask(PLAIN, list))
    }
}

fn facts<T: DeserializeOwned>(value: Value) -> Vec<T> {
    // An empty list and an empty object look alike to the node.
    if value.as_object().is_some_and(serde_json::Map::is_empty) {
        return Vec::new();
    }
    serde_json::from_value(value.clone()).unwrap_or_else(|error| panic!("the node said something else than was expected: {error}\n{value:#}"))
}
