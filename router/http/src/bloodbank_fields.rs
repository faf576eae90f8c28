//! What Bloodbank's request bodies have, field by field: for checking them (`request_schema`), for writing what they become, and for the
//! description of the API.
//!
//! The bodies of one family share what they begin with.

use crate::request_schema::{
    Absent, Fields,
    Kind::{Any, Counts, Flag, Integer, Moment, Number, Object, Of, Text, Texts},
    Rule, default, optional, required,
};

/// What every event of a session begins with.
const SESSION: &[Rule] = &[required("session_id", Text), optional("thread_id", Text)];

/// What every event of an agent begins with.
const OF_AGENT: &[Rule] = &[required("agent_name", Text)];

/// Below `/events/claude-code/`: the last word of the path, the key, the fields.
pub(crate) const CLAUDE_CODE: [(&str, &str, Fields); 6] = [
    ("tool-action", "session.thread.agent.action", ACTION),
    ("session-start", "session.thread.start", START),
    ("session-end", "session.thread.end", END),
    ("message", "session.thread.message", MESSAGE),
    ("error", "session.thread.error", ERROR),
    ("thinking", "session.thread.agent.thinking", THINKING),
];

const ACTION: Fields = &[
    SESSION,
    &[
        optional("conversation_id", Text),
        required(
            "tool_metadata",
            Of(&[&[
                required("tool_name", Text),
                required("tool_input", Object),
                optional("execution_time_ms", Integer),
                default("success", Flag, Absent::True),
                optional("error_message", Text),
                optional("output_preview", Text),
            ]]),
        ),
        optional("working_directory", Text),
        optional("git_branch", Text),
        optional("git_status", Text),
        default("files_in_context", Texts, Absent::EmptyList),
        optional("turn_number", Integer),
        optional("model", Text),
        default("tags", Texts, Absent::EmptyList),
    ],
];

const START: Fields = &[
    SESSION,
    &[
        required("working_directory", Text),
        optional("git_branch", Text),
        optional("git_remote", Text),
        required("model", Text),
        optional("user_prompt", Text),
        default("context_files", Texts, Absent::EmptyList),
        default("mcp_servers", Texts, Absent::EmptyList),
        default("started_at", Moment, Absent::Now),
    ],
];

const END: Fields = &[
    SESSION,
    &[
        required("end_reason", Text),
        optional("duration_seconds", Integer),
        default("total_turns", Integer, Absent::Zero),
        optional("total_tokens", Integer),
        optional("total_cost_usd", Number),
        default("tools_used", Counts, Absent::EmptyObject),
        default("files_modified", Texts, Absent::EmptyList),
        default("git_commits", Texts, Absent::EmptyList),
        required("final_status", Text),
        optional("summary", Text),
        optional("working_directory", Text),
        optional("git_branch", Text),
    ],
];

const MESSAGE: Fields = &[
    SESSION,
    &[
        required("role", Text),
        required("content", Text),
        required("turn_number", Integer),
        optional("tokens", Integer),
        optional("model", Text),
        default("thinking_included", Flag, Absent::False),
        default("tool_calls", Texts, Absent::EmptyList),
    ],
];

const ERROR: Fields = &[
    SESSION,
    &[
        required("error_type", Text),
        required("error_message", Text),
        optional("stack_trace", Text),
        optional("tool_name", Text),
        default("recoverable", Flag, Absent::False),
        optional("turn_number", Integer),
    ],
];

const THINKING: Fields = &[
    SESSION,
    &[required("thinking_text", Text), optional("thinking_duration_ms", Integer), optional("turn_number", Integer), optional("triggered_by_tool", Text)],
];

/// A prompt that somebody gave an agent.
pub(crate) const PROMPT: Fields = &[&[
    required("provider", Text),
    optional("model", Text),
    required("prompt", Text),
    optional("project", Text),
    optional("working_dir", Text),
    optional("domain", Text),
    default("tags", Texts, Absent::EmptyList),
]];

/// A type and a payload.
pub(crate) const PUBLISH: Fields = &[&[required("event_type", Text), required("payload", Any)]];

/// What an agent may say, in the order of the alphabet, in which a refusal lists them.
pub(crate) const AGENT: [(&str, Fields); 12] = [
    ("error", &[OF_AGENT, &[required("error_type", Text), required("error_message", Text), optional("context", Text)]]),
    ("heartbeat", &[OF_AGENT, &[required("status", Text), optional("active_sessions", Integer), optional("uptime_ms", Integer)]]),
    (
        "message.received",
        &[
            OF_AGENT,
            &[
                required("channel", Text),
                required("sender", Text),
                required("message_preview", Text),
                required("message_length", Integer),
                required("session_key", Text),
            ],
        ],
    ),
    (
        "message.sent",
        &[
            OF_AGENT,
            &[
                required("channel", Text),
                required("message_preview", Text),
                required("message_length", Integer),
                optional("model", Text),
                optional("tokens_used", Integer),
                optional("duration_ms", Integer),
            ],
        ],
    ),
    (
        "session.ended",
        &[OF_AGENT, &[required("session_key", Text), optional("reason", Text), optional("duration_ms", Integer), optional("total_messages", Integer)]],
    ),
    ("session.started", &[OF_AGENT, &[required("session_key", Text), optional("channel", Text), optional("model", Text)]]),
    (
        "subagent.completed",
        &[
            OF_AGENT,
            &[
                required("child_label", Text),
                required("child_session_key", Text),
                required("success", Flag),
                optional("duration_ms", Integer),
                optional("result_preview", Text),
            ],
        ],
    ),
    (
        "subagent.spawned",
        &[OF_AGENT, &[required("child_label", Text), required("child_session_key", Text), required("task_preview", Text), optional("model", Text)]],
    ),
    ("task.assigned", &[OF_AGENT, &[required("source", Text), required("task_type", Text), required("task_preview", Text)]]),
    ("task.completed", &[OF_AGENT, &[required("task_type", Text), required("success", Flag), optional("duration_ms", Integer)]]),
    (
        "tool.completed",
        &[OF_AGENT, &[required("tool_name", Text), required("success", Flag), optional("duration_ms", Integer), optional("output_preview", Text)]],
    ),
    ("tool.invoked", &[OF_AGENT, &[required("tool_name", Text), required("tool_params_preview", Text), required("session_key", Text)]]),
];
