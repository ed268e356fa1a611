//! What stands in the certificates that the embedded CA makes: X.509-SVIDs and their issuer as the
//! SPIFFE specification wants them.
//!
//! Not here: keys and signatures (`ca`).

use std::time::{Duration, SystemTime};

use interceptor_policy::{SpiffeId, TrustDomain};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyUsagePurpose, SanType, SerialNumber,
};

/// SVIDs start this long before they are issued, for peers whose clock is behind.
const SVID_BACKDATING: Duration = Duration::from_mins(1);
/// A new CA starts this long before it is made: nodes that share it may differ by more.
const CA_BACKDATING: Duration = Duration::from_hours(1);
/// Life of a new CA: it is replaced by an operator, so longer than machines live.
const CA_LIFETIME: Duration = Duration::from_hours(24 * 365 * 10);
/// Longest common name that X.520 allows.
const MAX_COMMON_NAME: usize = 64;

/// A new CA of `trust_domain`.
pub(super) fn authority(
    trust_domain: &TrustDomain,
    now: SystemTime,
) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::default();
    let name: String = format!("interceptor CA of {trust_domain}")
        .chars()
        .take(MAX_COMMON_NAME)
        .collect();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.subject_alt_names = vec![uri_name(&format!("spiffe://{trust_domain}"))?];
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.serial_number = Some(random_serial());
    set_validity(&mut params, now - CA_BACKDATING, now + CA_LIFETIME);
    Ok(params)
}

/// An SVID of `id`, from `now` until `until`.
pub(super) fn leaf(
    id: &SpiffeId,
    now: SystemTime,
    until: SystemTime,
) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::default();
    // Without a subject the alternative name is critical, as RFC 5280 wants it.
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![uri_name(id.as_str())?];
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    params.use_authority_key_identifier_extension = true;
    params.serial_number = Some(random_serial());
    set_validity(&mut params, now - SVID_BACKDATING, until);
    Ok(params)
}

fn uri_name(uri: &str) -> Result<SanType, rcgen::Error> {
    Ok(SanType::URI(uri.try_into()?))
}

/// Sixteen random bytes; the first is kept in 0x40–0x7f so that the number is positive and has
/// the same length always.
fn random_serial() -> SerialNumber {
    let mut bytes: [u8; 16] = rand::random();
    bytes[0] = bytes[0] & 0x3f | 0x40;
    SerialNumber::from_slice(&bytes)
}

/// Whole seconds, which is all that a certificate holds.
fn set_validity(params: &mut CertificateParams, from: SystemTime, until: SystemTime) {
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let whole = |time: SystemTime| {
        let since = time
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        Duration::from_secs(since.as_secs())
    };
    params.not_before = epoch + whole(from);
    params.not_after = epoch + whole(until);
}
