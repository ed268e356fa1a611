//! What policies mean, through the public interface: tables of named cases by subject.

#![forbid(unsafe_code)]

mod attributes;
mod fixture;
mod mtls;
mod scope;
mod semantics;
