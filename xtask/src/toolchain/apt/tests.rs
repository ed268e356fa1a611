//! The forms in which machines name their mirrors.

use super::*;

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

fn mirror(uri: &str, signed_by: Option<&str>) -> Mirror {
    Mirror {
        uri: uri.to_owned(),
        signed_by: signed_by.map(str::to_owned),
    }
}

#[test]
fn a_deb822_file_names_the_archive_and_its_key() {
    let text = "\
Types: deb
# a comment between fields
URIs: http://mirror.example/debian
Suites: bookworm bookworm-updates
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://mirror.example/debian-security
Suites: bookworm-security
Components: main
";
    assert_eq!(
        deb822_style(text),
        [mirror("http://mirror.example/debian", Some(KEYRING))]
    );
}

#[test]
fn a_key_inside_a_deb822_file_is_kept_whole() {
    let text = "\
types: deb deb-src
uris: http://a.example/debian http://b.example/debian
suites: trixie
components: main contrib
signed-by:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 mQINBGPL0B8BEAC
";
    let key = "\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n mQINBGPL0B8BEAC";
    let mirrors = [
        mirror("http://a.example/debian", Some(key)),
        mirror("http://b.example/debian", Some(key)),
    ];
    assert_eq!(deb822_style(text), mirrors);
    assert_eq!(deb822_style(&stanzas(&mirrors)), mirrors);
}

#[test]
fn what_is_disabled_or_sources_only_is_left_out() {
    let disabled = "Enabled: no\nTypes: deb\nURIs: http://a.example/debian\nComponents: main\n";
    let sources = "Types: deb-src\nURIs: http://a.example/debian\nComponents: main\n";
    assert_eq!(deb822_style(disabled), []);
    assert_eq!(deb822_style(sources), []);
}

#[test]
fn a_one_line_file_names_the_archive_and_its_key() {
    let text = "\
# deb http://commented.example/debian trixie main
deb [arch=amd64 signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://a.example/debian trixie main
deb http://b.example/debian/ bookworm main contrib
deb-src http://c.example/debian trixie main
deb http://security.debian.org/debian-security trixie-security main
deb https://download.vendor.example/linux/debian trixie stable
deb http://archive.ubuntu.com/ubuntu noble main
";
    assert_eq!(
        one_line_style(text),
        [
            mirror("http://a.example/debian", Some(KEYRING)),
            mirror("http://b.example/debian/", None),
        ]
    );
}

#[test]
fn only_the_very_version_is_taken_whatever_its_revision() {
    let madison = "\
  rust-src | 1.96.1+dfsg1-2~bpo13+1 | http://a.example/debian trixie-backports/main amd64 Packages
  rust-src | 1.95.0+dfsg1-2~bpo13+1 | http://a.example/debian trixie-backports/main amd64 Packages
  rust-src | 1.9.0-1 | http://a.example/debian trixie-backports/main amd64 Packages
";
    assert_eq!(exactly(madison, "1.95.0"), Some("1.95.0+dfsg1-2~bpo13+1"));
    assert_eq!(exactly(madison, "1.9.0"), Some("1.9.0-1"));
    assert_eq!(exactly(madison, "1.95"), None);
    assert_eq!(exactly(madison, "1.94.0"), None);
}
