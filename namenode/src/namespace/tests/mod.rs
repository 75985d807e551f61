//! The namespace as a whole, through [`apply_batch`](super::apply_batch) and [`query`](super::query) as the state machine and
//! the service call them.

mod world;
