//! Where rules are filed, and how what a connection has is looked up, without allocating.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;

use ipnet::IpNet;

use super::Slot;
use super::key::{Affix, Key};
use crate::Attempt;
use crate::field::Attribute;

/// Rules by the values that a connection must have for them to match. Every list is ascending.
#[derive(Debug, Default)]
pub(super) struct Table {
    principals: Texts,
    namespaces: Texts,
    trust_domains: Texts,
    /// By namespace, then name.
    accounts: HashMap<Box<str>, HashMap<Box<str>, Vec<Slot>>>,
    sources: Blocks,
    destinations: Blocks,
    ports: HashMap<u16, Vec<Slot>>,
    /// Rules that no value narrows.
    anywhere: Vec<Slot>,
}

/// Rules by a text.
#[derive(Debug, Default)]
struct Texts {
    whole: HashMap<Box<str>, Vec<Slot>>,
    prefix: HashMap<Box<str>, Vec<Slot>>,
    suffix: HashMap<Box<str>, Vec<Slot>>,
    /// The lengths in bytes that occur in `prefix`, and in `suffix`.
    prefix_lengths: BTreeSet<usize>,
    suffix_lengths: BTreeSet<usize>,
}

/// Rules by an address.
#[derive(Debug, Default)]
struct Blocks {
    networks: HashMap<IpNet, Vec<Slot>>,
    /// The prefix lengths that occur in `networks`.
    lengths: BTreeSet<u8>,
}

impl Table {
    /// Files a rule under a value. Rules come in ascending order.
    pub(super) fn file(&mut self, key: Key<'_>, slot: Slot) {
        let slots = match key {
            Key::Text(attribute, affix, text) => self.texts(attribute).entry(affix, text),
            Key::Account(account) => {
                let names = self.accounts.entry(account.namespace().into()).or_default();
                names.entry(account.name().into()).or_default()
            }
            Key::Block(Attribute::DestinationIp, network) => self.destinations.entry(network),
            Key::Block(_, network) => self.sources.entry(network),
            Key::Port(port) => self.ports.entry(port).or_default(),
        };
        if slots.last() != Some(&slot) {
            slots.push(slot);
        }
    }

    /// Files a rule that must be tested for every connection.
    pub(super) fn file_anywhere(&mut self, slot: Slot) {
        self.anywhere.push(slot);
    }

    const fn texts(&mut self, attribute: Attribute) -> &mut Texts {
        match attribute {
            Attribute::Namespace => &mut self.namespaces,
            Attribute::TrustDomain => &mut self.trust_domains,
            _ => &mut self.principals,
        }
    }

    /// Shows every list of rules that the connection may match. A rule may be in several.
    pub(super) fn visit(&self, attempt: &Attempt<'_>, mut show: impl FnMut(&[Slot])) {
        show(&self.anywhere);
        if let Some(slots) = self.ports.get(&attempt.destination_port) {
            show(slots);
        }
        self.sources.visit(attempt.source_ip, &mut show);
        self.destinations.visit(attempt.destination_ip, &mut show);
        let Some(id) = attempt.source else { return };
        self.principals.visit(id.principal(), &mut show);
        self.namespaces.visit(id.namespace(), &mut show);
        self.trust_domains
            .visit(id.trust_domain().as_str(), &mut show);
        let accounts = self.accounts.get(id.namespace());
        if let Some(slots) = accounts.and_then(|names| names.get(id.service_account())) {
            show(slots);
        }
    }
}

impl Texts {
    fn entry(&mut self, affix: Affix, text: &str) -> &mut Vec<Slot> {
        let slots = match affix {
            Affix::Whole => &mut self.whole,
            Affix::Prefix => {
                self.prefix_lengths.insert(text.len());
                &mut self.prefix
            }
            Affix::Suffix => {
                self.suffix_lengths.insert(text.len());
                &mut self.suffix
            }
        };
        slots.entry(text.into()).or_default()
    }

    fn visit(&self, text: &str, show: &mut impl FnMut(&[Slot])) {
        let prefixes = self
            .prefix_lengths
            .iter()
            .map_while(|length| text.get(..*length));
        let suffixes = self.suffix_lengths.iter().map_while(|length| {
            text.len()
                .checked_sub(*length)
                .and_then(|start| text.get(start..))
        });
        let whole = self.whole.get(text).into_iter();
        let prefix = prefixes.filter_map(|part| self.prefix.get(part));
        let suffix = suffixes.filter_map(|part| self.suffix.get(part));
        whole
            .chain(prefix)
            .chain(suffix)
            .for_each(|slots| show(slots));
    }
}

impl Blocks {
    fn entry(&mut self, network: IpNet) -> &mut Vec<Slot> {
        self.lengths.insert(network.prefix_len());
        self.networks.entry(network).or_default()
    }

    fn visit(&self, address: IpAddr, show: &mut impl FnMut(&[Slot])) {
        let address = address.to_canonical();
        for length in &self.lengths {
            let network = IpNet::new(address, *length).map(|network| network.trunc());
            if let Some(slots) = network.ok().and_then(|network| self.networks.get(&network)) {
                show(slots);
            }
        }
    }
}
