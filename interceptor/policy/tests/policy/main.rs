//! What policies mean, through the public interface: tables of named cases by subject.

#![forbid(unsafe_code)]

mod analysis;
mod attributes;
mod callers;
mod explain;
mod fixture;
mod flip;
mod generate;
mod identity;
mod mtls;
mod naive;
mod properties;
mod scope;
mod semantics;
mod sentences;
mod settled;
mod validation;
