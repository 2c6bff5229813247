//! Holds a TLS 1.3 server's session tickets back until the server has something else to say.
//!
//! Tickets follow the client's Finished unasked (RFC 8446 section 4.6.1). A client that sends and does not read leaves them in
//! its socket: its close becomes a reset, and a poll takes them for an answer. So they go with the first answer instead.
//! Knows record headers (RFC 8446 section 5.1) and nothing of what is inside.

use bytes::{Buf as _, BytesMut};

/// Bytes of a record's header: content type, version, length.
const HEADER_BYTES: usize = 5;
/// The content type of every encrypted record of TLS 1.3.
const APPLICATION_DATA: u8 = 23;
/// Bytes of an encrypted alert as a record: header, level, description, content type, tag. Any ticket is longer.
const ALERT_RECORD_BYTES: usize = HEADER_BYTES + 2 + 1 + 16;
/// Bytes held at most; what is longer is sent at once. Two tickets are well below.
const HELD_BYTES_MAX: usize = 4 << 10;

/// Where the records of one direction begin.
#[derive(Debug, Default)]
struct Records {
    /// Bytes of the header that were seen.
    of_header: usize,
    length: usize,
    /// Bytes of the record still to come.
    rest: usize,
}

impl Records {
    fn is_between(&self) -> bool {
        self.of_header == 0 && self.rest == 0
    }

    /// Follows bytes. Whether an encrypted record began among them.
    fn follow(&mut self, mut bytes: &[u8]) -> bool {
        let mut began = false;
        loop {
            let within = self.rest.min(bytes.len());
            self.rest -= within;
            let Some((&byte, after)) = bytes.split_at(within).1.split_first() else { return began };
            match self.of_header {
                0 => began |= byte == APPLICATION_DATA,
                3 => self.length = usize::from(byte) << 8,
                4 => self.rest = self.length | usize::from(byte),
                _ => {}
            }
            self.of_header = (self.of_header + 1) % HEADER_BYTES;
            bytes = after;
        }
    }
}

/// What a handshake has shown so far, and the tickets that wait.
#[derive(Debug, Default)]
pub(super) struct Tickets {
    client: Records,
    server: Records,
    client_is_encrypted: bool,
    held: BytesMut,
    is_over: bool,
}

impl Tickets {
    /// The client sent these bytes.
    pub(super) fn received(&mut self, bytes: &[u8]) {
        if !self.is_over {
            self.client_is_encrypted |= self.client.follow(bytes);
        }
    }

    /// The server sent these bytes.
    pub(super) fn sent(&mut self, bytes: &[u8]) {
        self.server.follow(bytes);
    }

    /// The handshake is over: whatever the server sends next takes the tickets along.
    pub(super) fn handshake_is_over(&mut self) {
        self.is_over = true;
    }

    /// Whether the handshake is over.
    pub(super) fn is_over(&self) -> bool {
        self.is_over
    }

    /// Keeps bytes if they are tickets. The server's own flight begins with a record in clear, and an alert is short, so
    /// neither is taken.
    pub(super) fn hold(&mut self, bytes: &[u8]) -> bool {
        let are_tickets = !self.is_over
            && self.client_is_encrypted
            && self.server.is_between()
            && bytes.first() == Some(&APPLICATION_DATA)
            && bytes.len() > ALERT_RECORD_BYTES
            && self.held.len() + bytes.len() <= HELD_BYTES_MAX;
        if are_tickets {
            self.server.follow(bytes);
            self.held.extend_from_slice(bytes);
        }
        are_tickets
    }

    /// What waits.
    pub(super) fn held(&self) -> &[u8] {
        &self.held
    }

    /// Of `n` bytes sent, those held come first. How many were others.
    pub(super) fn went(&mut self, n: usize) -> usize {
        let of_held = n.min(self.held.len());
        self.held.advance(of_held);
        n - of_held
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(kind: u8, bytes: u8) -> Vec<u8> {
        let mut record = vec![kind, 3, 3, 0, bytes];
        record.extend(std::iter::repeat_n(APPLICATION_DATA, bytes.into()));
        record
    }

    #[test]
    fn tickets_are_held_and_the_servers_flight_is_not() {
        let (hello, flight) = (record(22, 200), [record(22, 90), record(20, 1), record(23, 250)].concat());
        let finished = [record(20, 1), record(23, 53)].concat();
        let tickets = [record(23, 100), record(23, 100)].concat();
        // However the bytes are cut.
        for cut in 1..flight.len() {
            let mut both = Tickets::default();
            hello.chunks(cut).for_each(|part| both.received(part));
            for part in flight.chunks(cut) {
                assert!(!both.hold(part));
                both.sent(part);
            }
            assert!(!both.hold(&tickets), "the client is not encrypted yet");
            finished.chunks(cut).for_each(|part| both.received(part));
            assert!(both.hold(&tickets));
            both.handshake_is_over();
            assert!(!both.hold(&tickets), "an answer is not held");
            assert_eq!(both.held(), tickets);
            assert_eq!((both.went(50), both.went(tickets.len() - 50 + 7)), (0, 7));
        }
    }

    #[test]
    fn refused_early_data_does_not_keep_the_servers_flight() {
        let mut both = Tickets::default();
        both.received(&[record(22, 200), record(23, 80)].concat());
        assert!(!both.hold(&record(22, 90)));
        both.sent(&record(22, 90));
    }

    #[test]
    fn an_alert_is_not_held() {
        let mut both = Tickets::default();
        both.received(&record(23, 53));
        assert!(!both.hold(&record(23, 19)));
    }

    #[test]
    fn what_is_longer_than_tickets_are_is_not_held() {
        let mut both = Tickets::default();
        both.received(&record(23, 53));
        let long = vec![APPLICATION_DATA; HELD_BYTES_MAX + 1];
        assert!(!both.hold(&long));
    }
}
