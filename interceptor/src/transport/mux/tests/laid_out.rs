//! What goes out: many frames in few records, in order, whatever happens to the keys.

use std::future::poll_fn;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::super::super::codec::{Event, Reader, frame};
use super::super::super::record::{Content, Direction, Opener, Session, Suite};
use super::super::super::testing::{sockets, soon};
use super::super::out::Out;

/// Behind all that is said, and no record.
const LAST: &[u8] = b"that was all of it";

/// What is laid out here is heard there.
struct Ends {
    out: Out,
    near: TcpStream,
    far: TcpStream,
    opener: Opener,
    reader: Reader,
    /// Records that were heard.
    records: usize,
}

impl Ends {
    async fn new() -> Self {
        let direction = |fill| Direction::of_secret(Suite::Aes128, &[fill; 32]).unwrap();
        let ours = Session::new(direction(1), direction(2));
        let theirs = Session::new(direction(2), direction(1));
        let (near, far) = sockets().await;
        near.writable().await.unwrap();
        Self {
            out: Out::new(ours.sealer),
            near,
            far,
            opener: theirs.opener,
            reader: Reader::of_server(4096),
            records: 0,
        }
    }

    fn say(&mut self, stream: u32, bytes: &[u8]) -> usize {
        let room = self.out.payload().unwrap().unwrap_or_default();
        let count = bytes.len().min(room.len());
        room[..count].copy_from_slice(&bytes[..count]);
        if count > 0 {
            self.out.commit(stream, count);
        }
        count
    }

    /// Sends and hears all there is, as stream and bytes of each frame of data.
    async fn heard(&mut self) -> Vec<(u32, Vec<u8>)> {
        let (mut wire, mut heard, mut from) = (Vec::new(), Vec::new(), 0);
        let (out, near, far) = (&mut self.out, &mut self.near, &mut self.far);
        let saying = async {
            poll_fn(|cx| out.poll_flush(near, cx)).await.unwrap();
            near.write_all(LAST).await.unwrap();
        };
        let hearing = async {
            let mut piece = vec![0; 1 << 20];
            while !wire.ends_with(LAST) {
                let count = far.read(&mut piece).await.unwrap();
                wire.extend_from_slice(&piece[..count]);
            }
        };
        soon(async { tokio::join!(saying, hearing) }).await;
        wire.truncate(wire.len() - LAST.len());
        while let Some(record) = self.opener.open(&mut wire, from).unwrap() {
            from = record.end;
            self.records += 1;
            let Content::Data(mut at) = record.content else {
                continue;
            };
            while let Some(event) = self.reader.next(&wire, &mut at).unwrap() {
                if let Event::Data { stream, at } = event {
                    heard.push((stream, wire[at].to_vec()));
                }
            }
        }
        heard
    }
}

#[tokio::test]
async fn what_many_streams_say_at_one_moment_is_one_record() {
    let mut ends = Ends::new().await;
    for stream in 0..20_u32 {
        let words = vec![7; 100 + usize::try_from(stream).unwrap()];
        assert_eq!(ends.say(2 * stream + 1, &words), words.len());
    }
    frame::push_end(ends.out.frames(), 1);
    let heard = ends.heard().await;
    assert_eq!(heard.len(), 20);
    assert!(
        (0..)
            .zip(&heard)
            .all(|(at, (stream, _))| *stream == 2 * at + 1)
    );
    assert_eq!(ends.records, 1);
}

#[tokio::test]
async fn there_is_room_for_two_buffers_and_again_when_they_are_sent() {
    let mut ends = Ends::new().await;
    let mut said = 0;
    let words = vec![7; 16_000];
    while let count @ 1.. = ends.say(1, &words) {
        said += count;
        assert!(said < 1 << 20, "no bound");
    }
    frame::push_end(ends.out.frames(), 1);
    assert_eq!(ends.say(3, b"x"), 0, "nothing overtakes what waits");
    let heard: usize = ends.heard().await.iter().map(|(_, said)| said.len()).sum();
    assert_eq!(heard, said);
    assert_eq!(ends.say(3, b"x"), 1);
    assert_eq!(ends.heard().await, [(3, b"x".to_vec())]);
}

#[tokio::test]
async fn new_keys_that_the_peer_wants_come_behind_what_was_said_before() {
    let mut ends = Ends::new().await;
    ends.say(1, b"before");
    ends.out.update().unwrap();
    ends.say(1, b"behind");
    let heard = ends.heard().await;
    assert_eq!(heard, [(1, b"before".to_vec()), (1, b"behind".to_vec())]);
    ends.out.update().unwrap();
    ends.say(1, b"once more");
    assert_eq!(ends.heard().await, [(1, b"once more".to_vec())]);
}

#[tokio::test]
async fn frames_that_are_larger_than_all_buffers_go_out_piece_by_piece() {
    let mut ends = Ends::new().await;
    let mut frames = Vec::new();
    for _ in 0..20_000 {
        frames.extend(frame::data(1, 3));
        frames.extend(b"abc");
    }
    ends.out.frames().extend(&frames);
    let heard = ends.heard().await;
    let count: usize = heard.iter().map(|(_, said)| said.len()).sum();
    assert_eq!(count, 60_000);
}
