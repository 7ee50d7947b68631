//! A small blocking API client for the lab and its tests.
