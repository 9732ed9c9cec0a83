//! Fakes, for tests.
