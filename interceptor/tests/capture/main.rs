//! What the kernel programs do to real connections.
//!
//! Needs root. Each test has namespaces and a node of its own, so they run beside each other and
//! beside agents; everything is removed when a test ends. The tests play both the application and
//! the agent: the programs recognise sockets, not processes.

#[cfg(test)]
mod absence;
#[cfg(test)]
mod arrival;
#[cfg(test)]
mod cgroups;
#[cfg(test)]
mod datagram;
#[cfg(test)]
mod detours;
#[cfg(test)]
mod direct;
#[cfg(test)]
mod evasion;
#[cfg(test)]
mod frames;
#[cfg(test)]
mod full;
#[cfg(test)]
mod guard;
#[cfg(test)]
mod host_network;
#[cfg(test)]
mod inbound;
#[cfg(test)]
mod lent;
#[cfg(test)]
mod lifecycle;
#[cfg(test)]
mod load;
#[cfg(test)]
mod older;
#[cfg(test)]
mod outbound;
#[cfg(test)]
mod pins;
#[cfg(test)]
mod probes;
#[cfg(test)]
mod refused;
#[cfg(test)]
mod routed;
#[cfg(test)]
mod support;
