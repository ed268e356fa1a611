//! One of the event loops that serve very many connections at a time.

use std::io;
use std::net::TcpListener;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::runtime::Builder;
use tokio::task::JoinSet;

/// Sends back a byte to each, until the socket does not listen.
pub(super) fn serve(listener: &TcpListener) -> io::Result<()> {
    let listener = listener.try_clone()?;
    listener.set_nonblocking(true)?;
    let runtime = Builder::new_current_thread().enable_io().build()?;
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let mut all = JoinSet::new();
        loop {
            let (stream, _) = listener.accept().await?;
            all.spawn(answer(stream));
            while all.try_join_next().is_some() {}
        }
    })
}

async fn answer(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut byte = [0];
    stream.read_exact(&mut byte).await?;
    stream.write_all(&byte).await?;
    stream.read(&mut byte).await.map(drop)
}
