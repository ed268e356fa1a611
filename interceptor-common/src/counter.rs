//! The outcomes that the kernel programs count: one enum, so that both sides and every report
//! name them alike.

/// Declares the outcomes once: number, label and help text cannot drift apart.
macro_rules! counters {
    ($($(#[doc = $help:literal])+ $name:ident = $label:literal,)+) => {
        /// One outcome of a kernel program. The number is the index in the counters map.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u32)]
        pub enum Counter {
            $($(#[doc = $help])+ $name,)+
        }

        impl Counter {
            /// Every outcome, in the order of their numbers.
            pub const ALL: &'static [Self] = &[$(Self::$name),+];

            /// The stable name: a metric label and what `status` prints.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => $label,)+
                }
            }

            /// What it counts, in one sentence.
            pub const fn help(self) -> &'static str {
                match self {
                    $(Self::$name => concat!($($help),+).trim_ascii(),)+
                }
            }
        }
    };
}

counters! {
    /// Outbound connections of workloads handed to the agent.
    Captured = "captured",
    /// Outbound connections left alone because a rule or the workload's default says so.
    PassedByRule = "passed_by_rule",
    /// Outbound connections to loopback, which are never captured.
    Loopback = "loopback",
    /// Outbound connections of a workload to its own address.
    OwnAddress = "own_address",
    /// Connections of processes that are not enrolled.
    NotEnrolled = "not_enrolled",
    /// Connections of the agent itself.
    AgentOwn = "agent_own",
    /// Refused: the original destination could not be stored.
    RefusedNotStored = "refused_not_stored",
    /// Refused: the workload has no address of the destination's family.
    RefusedNoAddress = "refused_no_address",
    /// Refused: bound to loopback and connecting elsewhere, which no network carries.
    RefusedLoopbackSource = "refused_loopback_source",
    /// Refused: a protocol whose connections cannot be remembered (SCTP, DCCP, MPTCP on older kernels).
    RefusedProtocol = "refused_protocol",
    /// A flow that could not be published before its SYN; it is refused when it arrives.
    FlowNotPublished = "flow_not_published",
    /// Captured connections given to the agent's outbound listener.
    AssignedOutbound = "assigned_outbound",
    /// Plaintext connections to a workload given to the agent.
    SteeredInbound = "steered_inbound",
    /// HBONE connections to a workload given to the agent.
    SteeredHbone = "steered_hbone",
    /// Inbound connections that may go straight to the application.
    DirectPass = "direct_pass",
    /// Inbound connections to ports that are not captured.
    InboundPassedByRule = "inbound_passed_by_rule",
    /// Refused: the agent is down.
    RefusedAgentDown = "refused_agent_down",
    /// Refused: to an address of a workload's namespace that belongs to no workload, or from outside to its loopback.
    RefusedUnknownAddress = "refused_unknown_address",
    /// Refused: a captured connection whose flow is not known, or a late packet of a closed one.
    RefusedLostFlow = "refused_lost_flow",
    /// Original destinations handed over to the agent.
    DestinationHandedOver = "destination_handed_over",
    /// True client addresses handed over to applications.
    ClientHandedOver = "client_handed_over",
    /// Accepted connections whose original destination or client could not be handed over.
    HandOverFailed = "hand_over_failed",
    /// Flows that ended.
    FlowClosed = "flow_closed",
    /// Refused: a raw socket other than ICMP in a workload.
    RefusedRawSocket = "refused_raw_socket",
    /// Dropped at a workload's interface: a SYN that no connection known to capture has sent.
    RefusedUnknownSyn = "refused_unknown_syn",
    /// Dropped at a workload's interface: TCP hidden in fragments, extension headers, VLANs or other packets.
    RefusedHiddenPacket = "refused_hidden_packet",
    /// Dropped at a workload's interface: packets of SCTP and DCCP.
    RefusedProtocolPacket = "refused_protocol_packet",
    /// Datagrams sent and UDP sockets connected by workloads whose UDP is asked about, except QUIC.
    UdpObserved = "udp_observed",
    /// The same to port 443, which is QUIC's.
    UdpQuicObserved = "udp_quic_observed",
    /// Refused: UDP other than QUIC, as the workload's owner wants it.
    RefusedUdp = "refused_udp",
    /// Refused: UDP to port 443, which is QUIC's, as the workload's owner wants it.
    RefusedQuic = "refused_quic",
    /// Connections from before their workload was enrolled that the agent has reset.
    ResetOlder = "reset_older",
    /// Connections of the node's prober, known by its cgroup, to workloads of this node.
    Probe = "probe",
    /// Probes that may go straight to the application.
    ProbePass = "probe_pass",
    /// Outbound connections sent straight to a workload of this node, as granted.
    Direct = "direct",
    /// Outbound connections to a granted destination whose share is the agent's.
    DirectElsewhere = "direct_elsewhere",
    /// Grants not applied: of an older generation, or to an address that is no longer that workload's.
    DirectOutdated = "direct_outdated",
    /// Direct connections whose grant was revoked between connect and SYN; their SYN opens no door.
    DirectRevoked = "direct_revoked",
    /// Direct connections that were established.
    DirectEstablished = "direct_established",
    /// Direct connections that ended, established or not.
    DirectClosed = "direct_closed",
    /// Direct connections that only their own sockets remember, which costs more: the table was full, or the SYN might leave later.
    DirectBySocket = "direct_by_socket",
    /// Events of direct connections for which the ring buffer had no room.
    DirectEventLost = "direct_event_lost",
    /// Datagrams that reached sockets of workloads whose UDP is asked about, except QUIC.
    UdpInboundObserved = "udp_inbound_observed",
    /// The same from or to port 443, which is QUIC's.
    UdpQuicInboundObserved = "udp_quic_inbound_observed",
    /// Refused: a datagram to a workload, other than QUIC, as its owner wants it.
    RefusedUdpInbound = "refused_udp_inbound",
    /// Refused: a datagram to a workload from or to port 443, which is QUIC's, as its owner wants it.
    RefusedQuicInbound = "refused_quic_inbound",
    /// Outbound connections that passed in plaintext because the agent was down and the workload's owner allows it.
    PassedAgentDown = "passed_agent_down",
    /// Inbound connections that passed in plaintext because the agent was down and the workload's owner allows it.
    InboundPassedAgentDown = "inbound_passed_agent_down",
    /// Direct connections that were entered in the table, before their SYN left.
    DirectEntered = "direct_entered",
    /// Refused: a socket of nobody's that is used in a workload, or one of a workload's that is used by nobody.
    RefusedLentSocket = "refused_lent_socket",
}

/// Slots of the counters map: more than there are outcomes, so that adding one keeps the layout.
pub const COUNTERS: u32 = 64;

impl Counter {
    /// The index in the counters map.
    #[inline]
    #[expect(
        clippy::as_conversions,
        reason = "the discriminant of a repr(u32) enum"
    )]
    pub const fn index(self) -> u32 {
        self as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_counter_has_its_own_slot_and_name() {
        for (position, counter) in Counter::ALL.iter().enumerate() {
            assert_eq!(usize::try_from(counter.index()).ok(), Some(position));
            assert!(counter.index() < COUNTERS);
            let same = Counter::ALL.iter().filter(|c| c.name() == counter.name());
            assert_eq!(same.count(), 1, "{}", counter.name());
        }
    }

    #[test]
    fn help_is_one_trimmed_sentence() {
        for counter in Counter::ALL {
            assert!(counter.help().ends_with('.'), "{}", counter.name());
            assert!(!counter.help().starts_with(' '), "{}", counter.name());
        }
    }
}
