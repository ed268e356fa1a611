//! A GET request over a blocking socket: enough to ask an agent for its readiness, metrics and
//! admin pages.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};

use anyhow::{Context as _, Result};

use crate::wait::PATIENCE;

/// What a server answered.
#[derive(Clone, Debug)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// The body.
    pub body: String,
}

/// Asks a server with HTTP/1.0, so that the end of the body is the end of the connection.
///
/// # Errors
///
/// Fails if the server cannot be reached or does not speak HTTP.
pub fn request(server: SocketAddr, method: &str, path: &str) -> Result<Response> {
    let mut stream = TcpStream::connect_timeout(&server, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(
        stream,
        "{method} {path} HTTP/1.0\r\nhost: {server}\r\ncontent-length: 0\r\n\r\n"
    )?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let (head, body) = text
        .split_once("\r\n\r\n")
        .context("no end of the response's head")?;
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|code| code.parse().ok())
        .context("no status code")?;
    Ok(Response {
        status,
        body: body.to_owned(),
    })
}
