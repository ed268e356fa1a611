//! A client that is a process of its own: `host-app ADDRESS MESSAGE`. Waits for a line on standard
//! input (until it has been moved into its cgroup), calls, and prints `peer local answer`.
#![forbid(unsafe_code)]

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result};

const TIMEOUT: Duration = Duration::from_secs(20);

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let to: SocketAddr = arguments.next().context("no address")?.parse()?;
    let message = arguments.next().context("no message")?;
    io::stdin().read_line(&mut String::new())?;

    let mut stream = TcpStream::connect_timeout(&to, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    let (peer, local) = (stream.peer_addr()?, stream.local_addr()?);
    stream.write_all(message.as_bytes())?;
    stream.shutdown(Shutdown::Write)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    writeln!(io::stdout(), "{peer} {local} {answer}")?;
    Ok(())
}
