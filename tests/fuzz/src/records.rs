//! TLS records of links: sealed here by the AEAD alone, opened by `ebbgate_tunnel::tls::records`.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use bytes::BytesMut;
use ebbgate_tunnel::tls::records::{Opened, Records, Rekey};
use rustls::crypto::cipher::{AeadKey, Iv};
use rustls::{ConnectionTrafficSecrets, ExtractedSecrets};

/// Content types (RFC 8446 section 5.1): data, handshake, alert.
const TYPES: [u8; 3] = [23, 22, 21];
/// What TLS may send after the handshake: `close_notify`, another alert, key updates, a ticket, and what is none of these.
const MESSAGES: [&[u8]; 6] =
    [&[1, 0], &[2, 40], &[24, 0, 0, 1, 0], &[24, 0, 0, 1, 1], &[4, 0, 0, 0], &[24, 0, 0, 1, 2]];
/// A key update without its last byte.
const KEY_UPDATE: &[u8] = &[24, 0, 0, 1];
/// Bytes of the answer to a key update: header, message, content type, tag.
const ANSWER_BYTES: usize = 5 + 5 + 1 + 16;

fn secrets(generation: u8) -> ConnectionTrafficSecrets {
    let (key, iv) = (AeadKey::from([generation; 32]), Iv::new([generation; NONCE_LEN]));
    ConnectionTrafficSecrets::Aes256Gcm { key, iv }
}

/// Keys by number, for each direction.
#[derive(Default)]
struct Generations {
    sending: u8,
    receiving: u8,
}

impl Rekey for Generations {
    fn next_sending(&mut self) -> Result<ConnectionTrafficSecrets, rustls::Error> {
        self.sending = self.sending.wrapping_add(1);
        Ok(secrets(self.sending))
    }

    fn next_receiving(&mut self) -> Result<ConnectionTrafficSecrets, rustls::Error> {
        self.receiving = self.receiving.wrapping_add(1);
        Ok(secrets(self.receiving))
    }
}

/// Seals as RFC 8446 section 5.2 says, and knows no more than that.
#[derive(Default)]
struct Sealer {
    generation: u8,
    sequence: u64,
}

impl Sealer {
    fn seal(&mut self, kind: u8, content: &[u8], padding: usize) -> Vec<u8> {
        let key = UnboundKey::new(&AES_256_GCM, &[self.generation; 32]).expect("32 bytes");
        let mut nonce = [self.generation; NONCE_LEN];
        nonce.iter_mut().rev().zip(self.sequence.to_le_bytes()).for_each(|(byte, s)| *byte ^= s);
        self.sequence += 1;
        let mut body = content.to_vec();
        body.push(kind);
        body.resize(body.len() + padding, 0);
        let [high, low] = u16::try_from(body.len() + 16).expect("a short record").to_be_bytes();
        let header = [23, 3, 3, high, low];
        let nonce = Nonce::assume_unique_for_key(nonce);
        LessSafeKey::new(key).seal_in_place_append_tag(nonce, Aad::from(header), &mut body).expect("a seal");
        [&header[..], &body].concat()
    }

    fn update(&mut self) {
        *self = Self { generation: self.generation.wrapping_add(1), sequence: 0 };
    }
}

fn pick<T: Copy>(from: &[T], number: u8) -> T {
    *from.iter().cycle().nth(number.into()).expect("something to pick")
}

fn opener() -> Records {
    let keys = ExtractedSecrets { tx: (0, secrets(0)), rx: (0, secrets(0)) };
    Records::new(&keys, Box::<Generations>::default()).expect("AES-GCM")
}

/// Whatever comes without the key's seal is no data. What another hand has sealed opens to the same bytes, over changes of
/// key and in pieces; messages that have no place end the connection; an altered record ends it too.
pub fn records(data: &[u8]) {
    let mut incoming = BytesMut::from(data);
    let mut unsealed = opener();
    assert!(!matches!(
        unsealed.open(&mut incoming, &mut BytesMut::new()),
        Ok(Opened::Data(_) | Opened::Closed)
    ));

    let (mut records, mut sealer, mut answers) = (opener(), Sealer::default(), BytesMut::new());
    let (mut incoming, mut rest, mut updates) = (BytesMut::new(), data, 0);
    while let Some(([how, length, padding], after)) = rest.split_first_chunk() {
        let kind = pick(&TYPES, *how);
        let (content, after) = match (kind, how & 0x80) {
            (22 | 21, 0) => (pick(&MESSAGES, *length), after),
            _ => after.split_at(usize::from(*length).min(after.len())),
        };
        rest = after;
        let mut record = sealer.seal(kind, content, usize::from(*padding));
        let altered = how & 0x60 == 0x60;
        if altered && let Some(last) = record.last_mut() {
            *last ^= 1;
        }
        let (first, second) = record.split_at(record.len() / 2);
        incoming.extend_from_slice(first);
        assert!(matches!(records.open(&mut incoming, &mut answers), Ok(Opened::Incomplete)), "half a record");
        incoming.extend_from_slice(second);
        match records.open(&mut incoming, &mut answers) {
            Ok(Opened::Data(plain)) => {
                assert!(!altered && kind == 23 && plain == content && !content.is_empty());
            }
            Ok(Opened::Closed) => assert!(!altered && kind == 21 && matches!(content, [_, 0])),
            Ok(Opened::Nothing) if kind == 22 => {
                assert!(!altered);
                if let Some((asks @ (0 | 1), update)) = content.split_last()
                    && update == KEY_UPDATE
                {
                    sealer.update();
                    updates += usize::from(*asks);
                } else {
                    assert_eq!(content.first(), Some(&4), "a message that has no place");
                }
            }
            Ok(Opened::Nothing) => assert!(!altered && kind == 23 && content.is_empty()),
            Ok(Opened::Incomplete) => panic!("a whole record"),
            Err(_) => {
                assert!(altered || kind != 23 || content.is_empty(), "data was refused");
                return;
            }
        }
        assert!(incoming.is_empty(), "a record is taken whole");
        assert_eq!(answers.len(), updates * ANSWER_BYTES, "one answer for each update that asks");
    }
}
