//! nodectl.

fn main() {}
