//! dummy
fn main(){}
