//! Transcripts as Claude Code writes them: with copies, forks, subagents, cut lines and lines of new shapes.

mod surveys;
mod tallies;
mod written;
