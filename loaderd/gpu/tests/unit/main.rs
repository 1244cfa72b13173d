//! Decode units, on stand-ins for NVIDIA's libraries, and on a real GPU where there is one.

#[path = "../standin/connect.rs"]
mod connect;
mod faults;
mod jobs;
mod real;
mod results;
#[path = "../standin/mod.rs"]
mod standin;
