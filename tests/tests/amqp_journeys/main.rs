//! The built program on a real broker: run, publish, dead letters, `check --broker`, what a broker that says no or is away leads to, and
//! that its password is shown nowhere; TLS, and its end whatever the broker does.

mod asking;
mod closed;
mod documented;
mod ending;
mod letters;
mod looking_on;
mod refused;
mod running;
mod sessions;
mod telling;
mod world;
