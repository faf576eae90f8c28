//! The built program on a real broker: run, publish, dead letters, `check --broker`, what a broker that says no or is away leads to, and
//! that its password is shown nowhere.

mod asking;
mod documented;
mod letters;
mod refused;
mod running;
mod world;
