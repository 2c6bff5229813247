//! Codings come off as they went on, whatever the pieces; what is broken, hostile or another coding is refused.

use std::io::{Read as _, Write as _};

use proptest::prelude::*;

use super::*;
use crate::replace::tests::run;
use crate::{Coding, DECODED_RATIO_MAX, Edits, RATIO_FREE_BYTES};

/// Edits that take these codings off and put those on.
fn recode(from: &[Coding], to: &[Coding]) -> Edits {
    Edits { comes_in: from.to_vec(), changes: Vec::new(), leaves_in: to.to_vec() }
}

fn encoded(coding: Coding, body: &[u8]) -> Vec<u8> {
    run(&recode(&[], &[coding]), body, &[]).unwrap()
}

fn decoded(codings: &[Coding], body: &[u8], cuts: &[usize]) -> Result<Vec<u8>, Defect> {
    run(&recode(codings, &[]), body, cuts)
}

fn text(bytes: usize) -> Vec<u8> {
    let mut seed = 1_u32;
    let mut line = || {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        format!("<li class=\"item\">{:08x} and {}</li>\n", seed, seed % 1000)
    };
    let mut text = String::new();
    while text.len() < bytes {
        text.push_str(&line());
    }
    text.truncate(bytes);
    text.into_bytes()
}

#[test]
fn what_goes_on_comes_off_in_any_pieces() {
    for coding in Coding::ALL {
        for body in [Vec::new(), b"x".to_vec(), text(100), text(200_000)] {
            let coded = encoded(coding, &body);
            assert_eq!(decoded(&[coding], &coded, &[]).as_ref(), Ok(&body), "{coding}");
            let cuts: Vec<usize> = (0..coded.len()).step_by(1 + coded.len() / 50).collect();
            assert_eq!(decoded(&[coding], &coded, &cuts).as_ref(), Ok(&body), "{coding} in pieces");
            let flushed = run(&recode(&[], &[coding]), &body, &[1, 2, 50, 100_000]).unwrap();
            assert_eq!(decoded(&[coding], &flushed, &[3]).as_ref(), Ok(&body), "{coding} flushed");
        }
        assert!(encoded(coding, &text(200_000)).len() < 100_000, "{coding} makes it shorter");
    }
}

#[test]
fn a_flush_gives_everything_that_came() {
    for coding in Coding::ALL {
        let mut there = Pipeline::new(&recode(&[], &[coding])).unwrap();
        let mut back = Pipeline::new(&recode(&[coding], &[])).unwrap();
        for part in ["event one\n\n", "event two\n\n", "x"] {
            there.push(part.into());
            there.flush();
            let mut came = Vec::new();
            while let Pulled::Data(data) = there.pull().unwrap() {
                back.push(data);
                while let Pulled::Data(data) = back.pull().unwrap() {
                    came.extend_from_slice(&data);
                }
            }
            assert_eq!(String::from_utf8_lossy(&came), part, "{coding}");
        }
    }
}

#[test]
fn several_codings_come_off_last_first() {
    let body = text(5_000);
    let coded = encoded(Coding::Zstd, &encoded(Coding::Brotli, &encoded(Coding::Gzip, &body)));
    let codings = [Coding::Gzip, Coding::Brotli, Coding::Zstd];
    assert_eq!(decoded(&codings, &coded, &[7, 70]).as_ref(), Ok(&body));
    assert_eq!(
        decoded(&[Coding::Brotli, Coding::Gzip, Coding::Zstd], &coded, &[]),
        Err(Defect::Malformed(Coding::Gzip))
    );
}

#[test]
fn members_and_frames_follow_one_another() {
    let (a, b) = (text(40_000), text(10));
    for coding in [Coding::Gzip, Coding::Zstd] {
        let both = [encoded(coding, &a), encoded(coding, &[]), encoded(coding, &b)].concat();
        let cuts: Vec<usize> = (0..both.len()).step_by(11).collect();
        assert_eq!(decoded(&[coding], &both, &cuts), Ok([a.clone(), b.clone()].concat()), "{coding}");
    }
    let padded = [encoded(Coding::Gzip, &b), vec![0; 600]].concat();
    assert_eq!(decoded(&[Coding::Gzip], &padded, &[50]).as_ref(), Ok(&b), "tar pads with zeros");
}

#[test]
fn bytes_behind_the_end_are_refused() {
    for coding in [Coding::Gzip, Coding::Deflate, Coding::Brotli] {
        let coded = [encoded(coding, b"hello"), b"more".to_vec()].concat();
        assert_eq!(decoded(&[coding], &coded, &[3]), Err(Defect::Trailing(coding)));
    }
    let after_padding = [encoded(Coding::Gzip, b"a"), vec![0], encoded(Coding::Gzip, b"b")].concat();
    assert_eq!(decoded(&[Coding::Gzip], &after_padding, &[]), Err(Defect::Trailing(Coding::Gzip)));
    let coded = [encoded(Coding::Zstd, b"hello"), b"more".to_vec()].concat();
    assert_eq!(decoded(&[Coding::Zstd], &coded, &[]), Err(Defect::Malformed(Coding::Zstd)));
}

#[test]
fn what_is_cut_off_is_not_whole() {
    let body = text(3_000);
    for coding in Coding::ALL {
        let coded = encoded(coding, &body);
        for length in 1..coded.len() {
            let cut = decoded(&[coding], &coded[..length], &[length / 2]);
            assert_eq!(cut, Err(Defect::Truncated(coding)), "{coding} cut at {length}");
        }
        assert_eq!(decoded(&[coding], b"", &[]), Ok(Vec::new()), "an empty body is one in any coding");
    }
}

#[test]
fn another_coding_than_the_head_says_is_refused() {
    for named in Coding::ALL {
        for body in [text(3_000), b"\x00\x01\x02\x03\x04\x05\x06\x07".to_vec()] {
            assert!(decoded(&[named], &body, &[]).is_err(), "{named}");
        }
        for coding in Coding::ALL.into_iter().filter(|coding| *coding != named) {
            assert!(decoded(&[named], &encoded(coding, &text(3_000)), &[]).is_err(), "{coding} as {named}");
        }
        let mut flipped = encoded(named, &text(3_000));
        let at = flipped.len() / 2;
        flipped[at] ^= 0x40;
        assert_ne!(decoded(&[named], &flipped, &[]), Ok(text(3_000)), "{named} with a bit flipped");
    }
}

#[test]
fn bare_deflate_is_read_too() {
    let mut bare = flate2::Compress::new(flate2::Compression::fast(), false);
    let mut coded = Vec::with_capacity(10_000);
    bare.compress_vec(&text(3_000), &mut coded, flate2::FlushCompress::Finish).unwrap();
    for cuts in [vec![], vec![1], vec![1, 2, 3]] {
        assert_eq!(decoded(&[Coding::Deflate], &coded, &cuts), Ok(text(3_000)));
    }
}

/// Coded as short as it can be.
fn smallest(coding: Coding, body: &[u8]) -> Vec<u8> {
    let best = flate2::Compression::best();
    let mut coded = Vec::new();
    match coding {
        Coding::Gzip => flate2::write::GzEncoder::new(&mut coded, best).write_all(body).unwrap(),
        Coding::Deflate => flate2::write::ZlibEncoder::new(&mut coded, best).write_all(body).unwrap(),
        coding => coded = encoded(coding, body),
    }
    coded
}

#[test]
fn a_bomb_is_stopped_by_its_ratio() {
    let zeros = vec![0; 8 * 1024 * 1024];
    for coding in Coding::ALL {
        let bomb = smallest(coding, &zeros);
        let mut pipeline = Pipeline::new(&recode(&[coding], &[])).unwrap();
        pipeline.push(bomb.into());
        pipeline.end();
        let mut gave = 0;
        let defect = loop {
            match pipeline.pull() {
                Ok(Pulled::Data(data)) => {
                    assert!(data.len() <= 2 * OUT_BYTES, "{} at once", data.len());
                    gave += data.len();
                }
                Ok(Pulled::Tired) => {}
                Ok(other) => panic!("{other:?}"),
                Err(defect) => break defect,
            }
        };
        assert_eq!(defect, Defect::Ratio(coding));
        assert_eq!(pipeline.pull(), Err(defect), "and it stays so");
        let most = usize::try_from(RATIO_FREE_BYTES + 40_000 * DECODED_RATIO_MAX).unwrap();
        assert!(gave < most, "{coding}: {gave} bytes went out");
    }
    let short = vec![0; usize::try_from(RATIO_FREE_BYTES).unwrap()];
    assert_eq!(
        decoded(&[Coding::Brotli], &encoded(Coding::Brotli, &short), &[]),
        Ok(short),
        "no ratio below the bound"
    );
}

#[test]
fn a_pull_works_for_a_while_only() {
    // Decoded to a megabyte, of which nothing is left.
    let body = text(1_000_000);
    let mut edits = recode(&[Coding::Gzip], &[]);
    let nothing = crate::Replacement::new(
        std::sync::Arc::new(crate::Pattern::new(r"(?-u)[\x00-\xff]{20}").unwrap()),
        "",
    );
    edits.push(Edit::Replace(nothing.into()));
    let mut pipeline = Pipeline::new(&edits).unwrap();
    pipeline.push(encoded(Coding::Gzip, &body).into());
    pipeline.end();
    let mut tired = 0;
    loop {
        match pipeline.pull().unwrap() {
            Pulled::Tired => tired += 1,
            Pulled::Over => break,
            other => panic!("{other:?}"),
        }
    }
    assert!(tired > 4, "{tired} times for {} bytes", body.len());
}

#[test]
fn edits_without_a_change_take_nothing_off() {
    let coded = encoded(Coding::Gzip, b"hello");
    let mut kept = Edits::of(vec![Coding::Gzip]);
    assert!(kept.is_empty());
    assert_eq!(run(&kept, &coded, &[3]).unwrap(), coded);
    kept.encode(Coding::Brotli);
    assert!(!kept.is_empty());
    assert_eq!(kept.leaves_in(), [Coding::Gzip, Coding::Brotli]);
    let both = run(&kept, &coded, &[3]).unwrap();
    assert_eq!(decoded(&[Coding::Gzip, Coding::Brotli], &both, &[]).unwrap(), b"hello");
    assert_eq!(run(&Edits::default(), b"hello", &[3]).unwrap(), b"hello");
}

/// What another implementation makes of it: flate2's own reader of members, brotli's reader, zstd's one-shot decoder.
fn read_elsewhere(coding: Coding, coded: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    match coding {
        Coding::Gzip => flate2::read::MultiGzDecoder::new(coded).read_to_end(&mut body).map(drop).unwrap(),
        Coding::Deflate => flate2::read::ZlibDecoder::new(coded).read_to_end(&mut body).map(drop).unwrap(),
        Coding::Brotli => brotli::DecompressorWriter::new(&mut body, 4096).write_all(coded).unwrap(),
        Coding::Zstd => body = zstd::decode_all(coded).unwrap(),
    }
    body
}

proptest! {
    #[test]
    fn any_pieces_come_back(
        body in prop_oneof![prop::collection::vec(any::<u8>(), 0..3_000), "[ab]{0,3000}".prop_map(String::into_bytes)],
        cuts in prop::collection::vec(0usize..10_000, 0..8),
        codings in prop::collection::vec(prop::sample::select(Coding::ALL.to_vec()), 1..3),
    ) {
        let coded = run(&recode(&[], &codings), &body, &cuts).unwrap();
        let back = decoded(&codings, &coded, &cuts);
        prop_assert_eq!(back.as_ref(), Ok(&body));
        if let [coding] = codings.as_slice() {
            prop_assert_eq!(read_elsewhere(*coding, &coded), body);
        }
    }
}

#[test]
fn memory_is_told_before_it_is_used_and_grows_with_what_a_decoder_needs() {
    let text: Vec<u8> = (0..700_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    for coding in Coding::ALL {
        let mut edits = Edits::default();
        edits.encode(coding);
        assert!(edits.only_encodes());
        let mut encoder = Pipeline::new(&edits).unwrap();
        let (at_first, mut coded) = (encoder.memory_bytes(), Vec::new());
        assert!(at_first >= 256 * 1024, "{coding}");
        encoder.push(Bytes::copy_from_slice(&text));
        encoder.end();
        while let Pulled::Data(_) | Pulled::Tired = {
            let pulled = encoder.pull().unwrap();
            if let Pulled::Data(data) = &pulled {
                coded.extend_from_slice(data);
            }
            pulled
        } {
            let more = encoder.memory_bytes() - at_first;
            assert!(more <= 64 * 1024, "{coding}: {more}: what a slot keeps, and no more");
        }
        let edits = Edits::of(vec![coding]).decoded();
        assert!(!edits.only_encodes());
        let mut decoder = Pipeline::new(&edits).unwrap();
        assert!(decoder.memory_bytes() < 256 * 1024, "{coding}");
        decoder.push(coded.into());
        decoder.end();
        let mut most = 0;
        while decoder.pull().unwrap() != Pulled::Over {
            most = most.max(decoder.memory_bytes());
        }
        // The windows of gzip have 32 KiB, those that the edge makes in br and zstd 256 KiB.
        let least = if matches!(coding, Coding::Brotli | Coding::Zstd) { 256 * 1024 } else { 32 * 1024 };
        assert!((least..2 << 20).contains(&most), "{coding}: {most}");
    }
}
