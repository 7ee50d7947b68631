//! What runs in a pod: an echo server.
