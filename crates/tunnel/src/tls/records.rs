//! Records of TLS 1.3 after the handshake (RFC 8446 section 5): sealed and opened in place, keys updated when their time has
//! come (section 4.6.3, 5.5). Pure; keys come from rustls.

use std::io::{self, IoSlice};

use aws_lc_rs::aead::{AES_128_GCM, AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use bytes::{Buf as _, BytesMut};
use rustls::ConnectionTrafficSecrets;
use rustls::kernel::KernelConnection;

/// Bytes of data in one record.
pub const PLAIN_BYTES_MAX: usize = 1 << 14;
/// Records sealed with one key before the next; AES-GCM is good for some more (RFC 8446 section 5.5).
const RECORDS_PER_KEY_MAX: u64 = if cfg!(test) { 50 } else { 1 << 24 };
/// Records without data in a row; a peer that sends more means to cost us work.
const EMPTY_IN_A_ROW_MAX: u32 = 32;
const HEADER_BYTES: usize = 5;
const TAG_BYTES: usize = 16;
/// Bytes of a record after its header: data, type, padding and tag.
const BODY_BYTES_MAX: usize = PLAIN_BYTES_MAX + 256;
const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const DATA: u8 = 23;
const CLOSE_NOTIFY: u8 = 0;
const NEW_SESSION_TICKET: u8 = 4;
/// A whole `KeyUpdate` message, up to its one byte: whether the other side shall do the same.
const KEY_UPDATE: [u8; 4] = [24, 0, 0, 1];

/// Makes the next key of a direction.
pub trait Rekey: Send + Sync {
    /// For what we send.
    fn next_sending(&mut self) -> Result<ConnectionTrafficSecrets, rustls::Error>;
    /// For what we receive.
    fn next_receiving(&mut self) -> Result<ConnectionTrafficSecrets, rustls::Error>;
}

impl<D: Send + Sync> Rekey for KernelConnection<D> {
    fn next_sending(&mut self) -> Result<ConnectionTrafficSecrets, rustls::Error> {
        Ok(self.update_tx_secret()?.1)
    }

    fn next_receiving(&mut self) -> Result<ConnectionTrafficSecrets, rustls::Error> {
        Ok(self.update_rx_secret()?.1)
    }
}

/// What came of looking for a record.
pub enum Opened {
    /// Data.
    Data(BytesMut),
    /// A record for TLS itself.
    Nothing,
    /// The peer's `close_notify`.
    Closed,
    /// No whole record is there.
    Incomplete,
}

/// Both directions of a connection.
pub struct Records {
    sending: Key,
    receiving: Key,
    rekey: Box<dyn Rekey>,
    empty_in_a_row: u32,
}

/// One direction's key, and how many records it has sealed.
struct Key {
    aead: LessSafeKey,
    iv: [u8; NONCE_LEN],
    sequence: u64,
}

impl Key {
    fn new(sequence: u64, secrets: &ConnectionTrafficSecrets) -> io::Result<Self> {
        let (algorithm, key, iv) = match secrets {
            ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (&AES_128_GCM, key, iv),
            ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (&AES_256_GCM, key, iv),
            _ => return Err(io::Error::other("a link is encrypted by AES-GCM only")),
        };
        let key = UnboundKey::new(algorithm, key.as_ref())
            .map_err(|_| io::Error::other("a key of a wrong length"))?;
        let iv = iv.as_ref().try_into().map_err(|_| io::Error::other("a nonce of a wrong length"))?;
        Ok(Self { aead: LessSafeKey::new(key), iv, sequence })
    }

    /// The next record's nonce (RFC 8446 section 5.3).
    fn nonce(&mut self) -> Nonce {
        let mut nonce = self.iv;
        let (_, low) = nonce.split_at_mut(NONCE_LEN - 8);
        low.iter_mut().zip(self.sequence.to_be_bytes()).for_each(|(byte, s)| *byte ^= s);
        self.sequence += 1;
        Nonce::assume_unique_for_key(nonce)
    }
}

impl Records {
    /// From the keys of a finished handshake; `rekey` makes later ones.
    pub fn new(secrets: &rustls::ExtractedSecrets, rekey: Box<dyn Rekey>) -> io::Result<Self> {
        let (tx, rx) = (&secrets.tx, &secrets.rx);
        Ok(Self {
            sending: Key::new(tx.0, &tx.1)?,
            receiving: Key::new(rx.0, &rx.1)?,
            rekey,
            empty_in_a_row: 0,
        })
    }

    /// Seals up to `most` bytes of data behind `out`, and says how many.
    pub fn seal(&mut self, bufs: &[IoSlice<'_>], most: usize, out: &mut BytesMut) -> io::Result<usize> {
        let all = bufs.iter().map(|b| b.len()).sum::<usize>().min(most);
        let mut parts = bufs.iter().map(|b| &**b);
        let mut part: &[u8] = &[];
        let mut left = all;
        while left > 0 {
            let n = left.min(PLAIN_BYTES_MAX);
            let body = self.begin(n, out)?;
            let mut room = n;
            while room > 0 {
                if part.is_empty() {
                    part = parts.next().unwrap_or_default();
                }
                let (now, rest) = part.split_at(part.len().min(room));
                out.extend_from_slice(now);
                part = rest;
                room -= now.len();
            }
            self.finish(DATA, body, out)?;
            left -= n;
        }
        Ok(all)
    }

    /// Seals the farewell.
    pub fn seal_close(&mut self, out: &mut BytesMut) -> io::Result<()> {
        self.seal_message(ALERT, &[1, CLOSE_NOTIFY], out)
    }

    /// Opens the next record of `incoming`; what TLS has to answer goes behind `out`.
    pub fn open(&mut self, incoming: &mut BytesMut, out: &mut BytesMut) -> io::Result<Opened> {
        let Some(header) = incoming.first_chunk::<HEADER_BYTES>().copied() else {
            return Ok(Opened::Incomplete);
        };
        let [kind, 3, 3, high, low] = header else { return Err(broken("no record of TLS 1.3")) };
        let body = usize::from(u16::from_be_bytes([high, low]));
        if kind != DATA || !(TAG_BYTES + 1..=BODY_BYTES_MAX).contains(&body) {
            return Err(broken("a record of an impossible type or length"));
        }
        if incoming.len() < HEADER_BYTES + body {
            return Ok(Opened::Incomplete);
        }
        let mut record = incoming.split_to(HEADER_BYTES + body);
        record.advance(HEADER_BYTES);
        let nonce = self.receiving.nonce();
        let opened = self.receiving.aead.open_in_place(nonce, Aad::from(header), &mut record);
        let length = opened.map_err(|_| broken("a record that was altered"))?.len();
        record.truncate(length);
        let end =
            record.iter().rposition(|byte| *byte != 0).ok_or_else(|| broken("a record of padding alone"))?;
        let kind = record.get(end).copied().unwrap_or_default();
        record.truncate(end);
        if record.len() > PLAIN_BYTES_MAX {
            return Err(broken("a record of too much data"));
        }
        if kind == DATA && !record.is_empty() {
            self.empty_in_a_row = 0;
            return Ok(Opened::Data(record));
        }
        self.empty_in_a_row += 1;
        if self.empty_in_a_row > EMPTY_IN_A_ROW_MAX {
            return Err(broken("too many records without data"));
        }
        match (kind, &*record) {
            (ALERT, [_, CLOSE_NOTIFY]) => Ok(Opened::Closed),
            (DATA, []) => Ok(Opened::Nothing),
            (HANDSHAKE, message) => self.handshake(message, out).map(|()| Opened::Nothing),
            _ => Err(broken("an alert, or a record of no meaning")),
        }
    }

    /// Bytes to ask for at least, given what is there: the rest of a record whose header came.
    pub fn wanted(incoming: &[u8]) -> usize {
        match incoming {
            [_, _, _, high, low, rest @ ..] => {
                usize::from(u16::from_be_bytes([*high, *low])).min(BODY_BYTES_MAX).saturating_sub(rest.len())
            }
            _ => 0,
        }
    }

    fn handshake(&mut self, message: &[u8], out: &mut BytesMut) -> io::Result<()> {
        match message {
            // We resume nothing.
            [NEW_SESSION_TICKET, ..] => Ok(()),
            [update @ .., asks @ (0 | 1)] if *update == KEY_UPDATE => {
                let secrets = self.rekey.next_receiving().map_err(io::Error::other)?;
                self.receiving = Key::new(0, &secrets)?;
                if *asks == 1 { self.update_sending(out) } else { Ok(()) }
            }
            _ => Err(broken("a handshake message that has no place here")),
        }
    }

    fn update_sending(&mut self, out: &mut BytesMut) -> io::Result<()> {
        let [a, b, c, d] = KEY_UPDATE;
        self.seal_record(HANDSHAKE, &[a, b, c, d, 0], out)?;
        let secrets = self.rekey.next_sending().map_err(io::Error::other)?;
        self.sending = Key::new(0, &secrets)?;
        Ok(())
    }

    fn seal_message(&mut self, kind: u8, message: &[u8], out: &mut BytesMut) -> io::Result<()> {
        let body = self.begin(message.len(), out)?;
        out.extend_from_slice(message);
        self.finish(kind, body, out)
    }

    fn seal_record(&mut self, kind: u8, message: &[u8], out: &mut BytesMut) -> io::Result<()> {
        let body = begin_record(message.len(), out);
        out.extend_from_slice(message);
        self.finish(kind, body, out)
    }

    /// Makes room for a record of `n` bytes and says where its header begins; a key whose time is over is replaced first.
    fn begin(&mut self, n: usize, out: &mut BytesMut) -> io::Result<usize> {
        if self.sending.sequence >= RECORDS_PER_KEY_MAX {
            self.update_sending(out)?;
        }
        Ok(begin_record(n, out))
    }

    /// Seals the data behind a header.
    fn finish(&mut self, kind: u8, header_at: usize, out: &mut BytesMut) -> io::Result<()> {
        out.extend_from_slice(&[kind]);
        let record = out.get_mut(header_at..).unwrap_or_default();
        let Some((header, body)) = record.split_first_chunk_mut::<HEADER_BYTES>() else {
            return Err(broken("a record without header"));
        };
        let nonce = self.sending.nonce();
        let tag = self.sending.aead.seal_in_place_separate_tag(nonce, Aad::from(*header), body);
        out.extend_from_slice(tag.map_err(|_| broken("a record that cannot be sealed"))?.as_ref());
        Ok(())
    }
}

fn begin_record(n: usize, out: &mut BytesMut) -> usize {
    let at = out.len();
    let body = n + 1 + TAG_BYTES;
    let [high, low] = u16::try_from(body).unwrap_or(u16::MAX).to_be_bytes();
    out.reserve(HEADER_BYTES + body);
    out.extend_from_slice(&[DATA, 3, 3, high, low]);
    at
}

fn broken(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}
