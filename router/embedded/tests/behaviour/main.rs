//! The store as its users see it, through its two ports, on a clock that the tests move. What every transport must do is shown by
//! the conformance suite of the testkit; here stands what is special about this one.

mod archive;
mod bench;
mod checkpoints;
mod clock;
mod damage;
mod durability;
mod intake;
mod interrupted_repairs;
mod keeping;
mod looking;
mod opening;
mod queues;
mod seen;
mod storm;
mod waiting;
