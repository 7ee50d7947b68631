//! The objects that the lab creates, as JSON.
