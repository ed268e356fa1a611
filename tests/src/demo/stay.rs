//! What stays up after the scenes: a caller that keeps talking, and what people may try.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::scenes::{binary, plain};
use super::show::{Ink, Show};
use super::stage::{ADMIN, ECHO, Stage, service};
use crate::interruption::Interruption;
use crate::pod::Pod;

const EVERY: Duration = Duration::from_secs(1);
const TICK: Duration = Duration::from_millis(50);

/// Keeps everything up until Ctrl-C.
pub(super) fn until(interruption: &Interruption, stage: &Stage, show: &mut Show) -> Result<()> {
    show.scene("Try it yourself")?;
    invite(stage, show)?;
    let to = service(ECHO)?;
    let mut talk = Talk::Silent { since: None };
    let mut next = Instant::now();
    while !interruption.came() {
        if Instant::now() >= next {
            next += EVERY;
            let (after, news) = talk.go_on(&stage.caller, to);
            talk = after;
            if let Some(news) = news {
                show.fact("caller", &news)?;
            }
        }
        thread::sleep(TICK);
    }
    show.say("")
}

fn invite(stage: &Stage, show: &Show) -> Result<()> {
    let binary = binary()?;
    let (near, far) = (stage.near.socket(), stage.far.socket());
    let say = |what: &str, command: &str| -> Result<()> {
        show.say("")?;
        show.say(&show.ink(Ink::Dim, what))?;
        show.say(&show.ink(Ink::Cyan, command))
    };
    let to = service(ECHO)?;
    let speak = |who: &str, port: u16| {
        format!(
            "ip netns exec {who} bash -c 'exec 3<>/dev/tcp/{}/{port}; echo hello >&3; head -n1 <&3'",
            to.ip()
        )
    };
    say(
        "Speak to the server as the caller, as the intruder, or to its admin port:",
        &speak("caller", ECHO),
    )?;
    show.say(&show.ink(Ink::Cyan, &speak("intruder", ECHO)))?;
    show.say(&show.ink(Ink::Cyan, &speak("caller", ADMIN)))?;
    say(
        "Follow connections and refusals on node two:",
        &format!("{binary} connections -w --socket {}", far.display()),
    )?;
    say(
        "Ask node one how it is:",
        &format!("{binary} status --socket {}", near.display()),
    )?;
    say(
        "Edit a policy and watch the live connection below being cut, and coming back:",
        &format!("$EDITOR {}", stage.policies().display()),
    )?;
    show.say("")?;
    show.say("The caller now says something every second. Ctrl-C ends and removes everything.")
}

/// The caller's long conversation.
enum Talk {
    /// Connected, and how often it has been answered.
    Open(TcpStream, u64),
    /// Not connected, and since when that is known.
    Silent { since: Option<String> },
}

impl Talk {
    /// Says one thing more, or tries to connect; tells what changed.
    fn go_on(self, caller: &Pod, to: SocketAddr) -> (Self, Option<String>) {
        match self {
            Self::Open(mut stream, answers) => match exchange(&mut stream) {
                Ok(()) => (Self::Open(stream, answers + 1), None),
                Err(error) => {
                    let news = format!("cut after {answers} answers: {}", plain(&error));
                    (Self::Silent { since: None }, Some(news))
                }
            },
            Self::Silent { since } => {
                let opened = caller.connect(to).and_then(|mut stream| {
                    exchange(&mut stream)?;
                    Ok(stream)
                });
                match opened {
                    Ok(stream) => (
                        Self::Open(stream, 1),
                        Some("connected, and is answered".to_owned()),
                    ),
                    Err(error) => {
                        let why = plain(&error);
                        let news =
                            (since.as_ref() != Some(&why)).then(|| format!("refused: {why}"));
                        (Self::Silent { since: Some(why) }, news)
                    }
                }
            }
        }
    }
}

fn exchange(stream: &mut TcpStream) -> io::Result<()> {
    let mut answer = [0; 5];
    stream.write_all(b"hello")?;
    stream.read_exact(&mut answer)
}
