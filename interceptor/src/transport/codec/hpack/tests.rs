//! The examples of RFC 7541, and what must not decode.

use proptest::prelude::*;
use rstest::rstest;

use super::*;

type Field = (String, String);

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<_> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
    let text = |pair: &[u8]| String::from_utf8(pair.to_vec()).unwrap();
    digits
        .chunks(2)
        .map(|pair| u8::from_str_radix(&text(pair), 16).unwrap())
        .collect()
}

fn decode(decoder: &mut Decoder, block: &[u8], most: usize) -> Result<Vec<Field>, CodecError> {
    let mut fields = Vec::new();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    decoder.decode(block, most, |name, value| {
        fields.push((text(name), text(value)));
        Ok(())
    })?;
    Ok(fields)
}

fn shown(fields: &[Field]) -> String {
    let lines = fields
        .iter()
        .map(|(name, value)| format!("{name}: {value}"));
    lines.collect::<Vec<_>>().join("; ")
}

/// RFC 7541 C.3 and C.4: the same three requests, as they are and Huffman-coded.
#[rstest]
#[case::plain([
    "8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
    "8286 84be 5808 6e6f 2d63 6163 6865",
    "8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65",
])]
#[case::coded([
    "8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff",
    "8286 84be 5886 a8eb 1064 9cbf",
    "8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf",
])]
fn the_standards_requests_are_read(#[case] blocks: [&str; 3]) {
    let mut decoder = Decoder::new();
    let read = blocks.map(|block| {
        let fields = decode(&mut decoder, &bytes(block), 4096).unwrap();
        shown(&fields)
    });
    let same = ":method: GET; :scheme: http; :path: /; :authority: www.example.com";
    let third = ":method: GET; :scheme: https; :path: /index.html; :authority: www.example.com";
    assert_eq!(read[0], same);
    assert_eq!(read[1], format!("{same}; cache-control: no-cache"));
    assert_eq!(read[2], format!("{third}; custom-key: custom-value"));
    assert_eq!(decoder.size, 164);
}

/// RFC 7541 C.6: Huffman-coded answers with a table of 256 bytes, from which entries are evicted.
#[test]
fn entries_leave_a_table_that_is_full() {
    let mut decoder = Decoder::new();
    decoder.resize(256).unwrap();
    let blocks = [
        "4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6 2d1b ff6e
         919d 29ad 1718 63c7 8f0b 97c8 e9ae 82ae 43d3",
        "4883 640e ffc1 c0bf",
        "88c1 6196 d07a be94 1054 d444 a820 0595 040b 8166 e084 a62d 1bff c05a 839b d9ab 77ad 94e7
         821d d7f2 e6c7 b335 dfdf cd5b 3960 d5af 2708 7f36 72c1 ab27 0fb5 291f 9587 3160 65c0 03ed
         4ee5 b106 3d50 07",
    ];
    let read = blocks.map(|block| {
        let fields = decode(&mut decoder, &bytes(block), 4096).unwrap();
        shown(&fields)
    });
    insta::assert_snapshot!(read.join("\n"), @r"
    :status: 302; cache-control: private; date: Mon, 21 Oct 2013 20:13:21 GMT; location: https://www.example.com
    :status: 307; cache-control: private; date: Mon, 21 Oct 2013 20:13:21 GMT; location: https://www.example.com
    :status: 200; cache-control: private; date: Mon, 21 Oct 2013 20:13:22 GMT; location: https://www.example.com; content-encoding: gzip; set-cookie: foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1
    ");
    assert_eq!((decoder.size, decoder.entries.len()), (215, 3));
}

#[rstest]
#[case::index_zero("80", CodecError::Compression)]
#[case::beyond_the_tables("be", CodecError::Compression)]
#[case::index_that_never_ends("ff ffff ffff ffff", CodecError::Compression)]
#[case::string_beyond_the_end("00 05 6162", CodecError::Compression)]
#[case::no_value("00 01 61", CodecError::Compression)]
#[case::a_string_longer_than_any("00 7f 80 80 7f", CodecError::TooLarge)]
#[case::table_larger_than_agreed("3f e2 1f", CodecError::Compression)]
#[case::table_resized_behind_a_field("82 20", CodecError::Compression)]
#[case::padding_of_zeros("00 81 00 00", CodecError::Compression)]
#[case::padding_of_a_byte("00 82 1fff 00", CodecError::Compression)]
#[case::end_of_string("00 84 ffff ffff 00", CodecError::Compression)]
fn what_the_standard_forbids_does_not_decode(#[case] block: &str, #[case] error: CodecError) {
    let decoded = decode(&mut Decoder::new(), &bytes(block), 4096);
    assert_eq!(decoded, Err(error));
}

#[test]
fn a_list_ends_at_its_bound_however_small_its_bytes_are() {
    // One entry of 4,000 bytes, referred to again and again: a byte each.
    let mut decoder = Decoder::new();
    let mut block = vec![0x40];
    push_string(&mut block, b"x");
    push_string(&mut block, &[b'y'; 4000]);
    assert!(decode(&mut decoder, &block, 8192).is_ok());
    assert_eq!(
        decode(&mut decoder, &[0xbe; 100], 8192),
        Err(CodecError::TooLarge)
    );
}

#[test]
fn an_entry_larger_than_the_table_empties_it() {
    let mut decoder = Decoder::new();
    let entry = |size| Entry {
        name: Box::from([b'n'].as_slice()),
        value: vec![b'v'; size].into(),
    };
    decoder.insert(entry(10));
    decoder.insert(entry(TABLE));
    assert_eq!((decoder.size, decoder.entries.len()), (0, 0));
}

proptest! {
    #[test]
    fn what_is_written_is_read(
        fields in prop::collection::vec(("[a-z-]{1,300}", prop::collection::vec(any::<u8>(), 0..9000)), 0..4),
    ) {
        let mut block = Vec::new();
        for (name, value) in &fields {
            push_literal(&mut block, name.as_bytes(), value);
        }
        let mut read = Vec::new();
        Decoder::new()
            .decode(&block, usize::MAX, |name, value| {
                read.push((String::from_utf8(name.to_vec()).unwrap(), value.to_vec()));
                Ok(())
            })
            .unwrap();
        prop_assert_eq!(read, fields);
    }

    #[test]
    fn any_block_decodes_or_does_not(block in prop::collection::vec(any::<u8>(), 0..200)) {
        let mut decoder = Decoder::new();
        for _ in 0..2 {
            drop(decode(&mut decoder, &block, 4096));
            let sizes = decoder.entries.iter().map(Entry::size);
            prop_assert_eq!(decoder.size, sizes.sum::<usize>());
            prop_assert!(decoder.size <= TABLE);
        }
    }
}
