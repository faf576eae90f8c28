//! The promises of the pipeline (ARCHITECTURE.md), each shown on a whole router over the transport in memory, on a clock that
//! stands still until the test moves it.

mod archiving;
mod attacks;
mod behind;
mod bench;
mod bursts;
mod busy;
mod dropping;
mod enabling;
mod failures;
mod fates;
mod flood;
mod ledger;
mod operating;
mod order;
mod reload;
mod renewal;
mod restarts;
mod spans;
mod threads;
mod waits;
