//! Every value survives being written and read; no text makes a parser panic.

use std::collections::BTreeMap;
use std::net::IpAddr;

use proptest::prelude::*;

use super::{Covers, IpBlock, Outcome, Pattern, PortMatch, ServiceAccountRef, Values};

/// Whether what a value shows as is read as the same value.
fn survives<T: PartialEq + ToString, E>(value: &T, parse: impl Fn(&str) -> Result<T, E>) -> bool {
    parse(&value.to_string()).is_ok_and(|again| again == *value)
}

#[test]
fn not_values_are_taken_out_of_the_values() {
    let values = Values {
        any_of: Box::new([1, 2, 3]),
        none_of: Box::new([2]),
    };
    assert_eq!(values.check(|v| *v == 3), Outcome::Holds(Some(2)));
    assert_eq!(values.check(|v| *v == 2), Outcome::Excluded(0));
    assert_eq!(values.check(|v| *v == 4), Outcome::NotListed);
}

#[test]
fn a_named_port_matches_only_once_it_is_bound() -> Result<(), String> {
    let named: PortMatch = "http".parse()?;
    let bound = named.bound(&BTreeMap::from([("http".to_owned(), 8080)]));
    assert!(!named.contains(8080));
    assert!(bound.contains(8080) && !bound.contains(80));
    assert_eq!(
        (named.to_string(), bound.to_string()),
        ("http".to_owned(), "http (8080)".to_owned())
    );
    Ok(())
}

/// A set and a subject of it, from pools small enough that they meet.
fn meeting() -> impl Strategy<Value = (Pattern, Pattern, String)> {
    let pattern =
        "\\*?[ab]{0,2}\\*?".prop_filter_map("a pattern", |text| Pattern::parse(&text).ok());
    (pattern.clone(), pattern, "[ab]{1,3}")
}

proptest! {
    #[test]
    fn a_pattern_covers_only_what_it_matches((all, some, value) in meeting()) {
        prop_assert!(!all.covers(&some) || !some.matches(&value) || all.matches(&value));
    }

    #[test]
    fn a_port_set_covers_only_what_it_contains(
        a in 0..9_u16, b in 0..9_u16, c in 0..9_u16, d in 0..9_u16, port in 0..9_u16,
    ) {
        let (all, some) = (format!("{a}-{b}").parse::<PortMatch>(), format!("{c}-{d}").parse());
        if let (Ok(all), Ok(some)) = (all, some) {
            prop_assert!(!all.covers(&some) || !some.contains(port) || all.contains(port));
        }
    }

    #[test]
    fn a_field_that_contradicts_itself_never_holds((value, excluded, subject) in meeting()) {
        let values = Values { any_of: Box::new([value]), none_of: Box::new([excluded]) };
        let holds = values.check(|pattern| pattern.matches(&subject)).holds();
        prop_assert!(!values.contradict() || !holds);
    }

    #[test]
    fn patterns(text in "\\*?[a-z./*-]{0,8}\\*?") {
        if let Ok(pattern) = Pattern::parse(&text) {
            prop_assert_eq!(pattern.to_string(), text);
            prop_assert!(survives(&pattern, Pattern::parse));
        }
    }

    #[test]
    fn a_pattern_matches_what_it_was_made_of(value in "[a-z/.]{1,12}", at in 0..12_usize) {
        let (start, end) = value.split_at(at.min(value.len()));
        let patterns = ["*".to_owned(), value.clone(), format!("*{end}"), format!("{start}*")];
        for text in patterns {
            prop_assert!(Pattern::parse(&text).is_ok_and(|pattern| pattern.matches(&value)), "{text}");
        }
    }

    #[test]
    fn address_blocks(address: IpAddr, length in 0..=128_u8) {
        for text in [address.to_string(), format!("{address}/{length}")] {
            let Ok(block) = text.parse::<IpBlock>() else {
                prop_assert!(address.is_ipv4() && length > 32, "{text}");
                continue;
            };
            prop_assert!(survives(&block, str::parse::<IpBlock>), "{text}");
            prop_assert!(length == 0 || block.contains(address) || address.to_canonical() != address);
        }
    }

    #[test]
    fn a_block_contains_its_address_however_it_is_written(address: std::net::Ipv4Addr) {
        let mapped = IpAddr::from(address.to_ipv6_mapped());
        for text in [address.to_string(), mapped.to_string(), format!("{mapped}/120")] {
            let block = text.parse::<IpBlock>().expect("an address");
            prop_assert!(block.contains(address.into()) && block.contains(mapped), "{text}");
        }
    }

    #[test]
    fn ports(first: u16, last: u16, name in "[a-z0-9-]{1,16}") {
        for text in [first.to_string(), format!("{first}-{last}"), name] {
            if let Ok(port) = text.parse::<PortMatch>() {
                prop_assert!(survives(&port, str::parse::<PortMatch>), "{text}");
            }
        }
        let range = format!("{first}-{last}").parse::<PortMatch>();
        prop_assert_eq!(range.is_ok(), first <= last);
    }

    #[test]
    fn service_accounts(text in "[a-z/*]{0,12}") {
        if let Ok(account) = ServiceAccountRef::parse(&text, "demo") {
            prop_assert!(survives(&account, |text| ServiceAccountRef::parse(text, "other")));
        }
    }

    #[test]
    fn no_text_makes_a_parser_panic(text: String) {
        let parsed = [
            Pattern::parse(&text).is_ok(),
            text.parse::<IpBlock>().is_ok(),
            text.parse::<PortMatch>().is_ok(),
            ServiceAccountRef::parse(&text, "demo").is_ok(),
        ];
        prop_assert!(!text.is_empty() || parsed == [false; 4]);
    }
}
