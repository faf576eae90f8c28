//! Certificates for a node with TLS, made for each node anew.

use std::{
    fs,
    path::{Path, PathBuf},
};

use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose};

/// Where they lie, as PEM.
#[derive(Clone, Debug)]
pub struct Certificates {
    /// The authority that signed what follows.
    pub authority: PathBuf,
    /// Of the node, for `localhost` and `127.0.0.1`.
    pub server: PathBuf,
    /// Its key.
    pub server_key: PathBuf,
    /// Of a client.
    pub client: PathBuf,
    /// Its key, as PKCS #8.
    pub client_key: PathBuf,
    /// An authority that signed nothing of this.
    pub stranger: PathBuf,
    /// A client's certificate from that authority.
    pub strange_client: PathBuf,
    /// Its key, as PKCS #8.
    pub strange_client_key: PathBuf,
}

impl Certificates {
    /// Makes them in a directory.
    ///
    /// # Panics
    ///
    /// When they cannot be written.
    #[must_use]
    pub fn make(directory: &Path) -> Self {
        fs::create_dir_all(directory).expect("the directory of the certificates can be made");
        let write = |name: &str, text: String| {
            let path = directory.join(name);
            fs::write(&path, text).expect("a certificate can be written");
            path
        };
        let (authority, authority_pem) = authority("event-router tests");
        let (stranger, stranger_pem) = self::authority("somebody else");
        let server = signed("localhost", &["localhost", "127.0.0.1"], ExtendedKeyUsagePurpose::ServerAuth, &authority);
        let client = signed("router", &[], ExtendedKeyUsagePurpose::ClientAuth, &authority);
        let strange = signed("router", &[], ExtendedKeyUsagePurpose::ClientAuth, &stranger);
        Self {
            authority: write("authority.pem", authority_pem),
            server: write("server.pem", server.0),
            server_key: write("server-key.pem", server.1),
            client: write("client.pem", client.0),
            client_key: write("client-key.pem", client.1),
            stranger: write("stranger.pem", stranger_pem),
            strange_client: write("strange-client.pem", strange.0),
            strange_client_key: write("strange-client-key.pem", strange.1),
        }
    }
}

fn named(name: &str, alternatives: &[&str]) -> CertificateParams {
    let alternatives: Vec<String> = alternatives.iter().map(|&name| name.to_owned()).collect();
    let mut params = CertificateParams::new(alternatives).expect("the names are ones");
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

fn authority(name: &str) -> (Issuer<'static, KeyPair>, String) {
    let mut params = named(name, &[]);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let key = KeyPair::generate().expect("a key can be made");
    let certificate = params.self_signed(&key).expect("an authority signs for itself");
    (Issuer::new(params, key), certificate.pem())
}

/// Certificate and key.
fn signed(name: &str, alternatives: &[&str], usage: ExtendedKeyUsagePurpose, issuer: &Issuer<'_, KeyPair>) -> (String, String) {
    let mut params = named(name, alternatives);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
    params.extended_key_usages = vec![usage];
    params.use_authority_key_identifier_extension = true;
    let key = KeyPair::generate().expect("a key can be made");
    let certificate = params.signed_by(&key, issuer).expect("the authority signs");
    (certificate.pem(), key.serialize_pem())
}
