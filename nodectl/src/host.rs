//! The adapters: the only door to the machine. They hold no policy.
