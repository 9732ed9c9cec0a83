//! What an interface has done.

/// Counters of one interface; they only grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Frames put on the ring.
    pub frames_out: u64,
    /// Their bytes.
    pub bytes_out: u64,
    /// Those of them that are large segments.
    pub large_out: u64,
    /// Frames that could not be put there: there were no grants for them, or the connection was over.
    pub dropped_out: u64,
    /// Parts of frames that the back end has sent, by its own account.
    pub okay_out: u64,
    /// Parts of frames that the back end has dropped, by its own account.
    pub refused_out: u64,
    /// Parts of frames that were not answered when a connection ended.
    pub lost_out: u64,
    /// Frames that came in.
    pub frames_in: u64,
    /// Their bytes.
    pub bytes_in: u64,
    /// Those of them that are large segments.
    pub large_in: u64,
    /// Frames that the back end had an error with.
    pub failed_in: u64,
    /// How often there was no grant for a page to receive into.
    pub no_grants: u64,
    /// Events sent.
    pub notified: u64,
    /// Connections that were opened.
    pub connections: u64,
    /// Connections that were given up because the back end broke the protocol.
    pub broken: u64,
}

impl Counters {
    /// All of them, by name.
    pub fn named(&self) -> [(&'static str, u64); 15] {
        [
            ("frames-out", self.frames_out),
            ("bytes-out", self.bytes_out),
            ("large-out", self.large_out),
            ("dropped-out", self.dropped_out),
            ("okay-out", self.okay_out),
            ("refused-out", self.refused_out),
            ("lost-out", self.lost_out),
            ("frames-in", self.frames_in),
            ("bytes-in", self.bytes_in),
            ("large-in", self.large_in),
            ("failed-in", self.failed_in),
            ("no-grants", self.no_grants),
            ("notified", self.notified),
            ("connections", self.connections),
            ("connections-broken", self.broken),
        ]
    }
}
