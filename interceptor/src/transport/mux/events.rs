//! What the peer's frames mean for the streams of a shared carrier.

use super::super::codec::{CodecError, Event, Fields, frame};
use super::super::exclusive::carrier::SessionFailure;
use super::MOST_SERVED;
use super::hub::{Inner, MOST_WAITING, Role};
use super::slot::{End, Slot};

/// Answers that may wait to be sent. A peer that asks without reading them ends here.
const MAX_FRAMES: usize = 128 << 10;

/// Answers of handlers, and whatever else their streams have to say besides data: of all streams that
/// there may be, about a kilobyte each.
const MAX_ANSWERED: usize = MOST_SERVED << 10;

/// A stream that the peer has begun.
#[derive(Debug)]
pub(super) struct Arrived {
    pub(super) stream: u32,
    pub(super) fields: Box<Fields>,
}

impl Inner {
    /// Takes an event in; `bytes` is what its ranges refer to. Returns a stream that has begun.
    pub(super) fn on(
        &mut self,
        event: Event,
        bytes: &[u8],
    ) -> Result<Option<Arrived>, SessionFailure> {
        let mut arrived = None;
        let before = self.out.frames().len();
        if before == 0 {
            self.answers = 0;
        }
        match event {
            // RFC 9113 5.1: a stream begins with a header list.
            Event::Data { stream, .. }
            | Event::End { stream }
            | Event::Reset { stream, .. }
            | Event::Window { stream, .. }
                if stream > self.highest =>
            {
                return Err(CodecError::Unexpected.into());
            }
            Event::Data { stream, at } => {
                self.on_data(stream, bytes.get(at).unwrap_or_default())?;
            }
            Event::End { stream } => self.on_end(stream)?,
            Event::Headers { stream, fields } => arrived = self.on_headers(stream, fields)?,
            Event::Reset { stream, code } => {
                if let Some(slot) = self.streams.get_mut(&stream) {
                    slot.end(End::Reset(code));
                }
            }
            // All of them together have no window.
            Event::Window { stream: 0, .. } => {}
            Event::Window { stream, more } => self.on_window(stream, more)?,
            Event::Settings => {
                self.is_greeted = true;
                frame::push_settings_ack(self.out.frames());
            }
            Event::Ping(payload) => frame::push_pong(self.out.frames(), payload),
            Event::GoAway { last, code } => {
                self.is_going = true;
                if self.role == Role::Client {
                    // With the last stream, the carrier ends.
                    self.is_retired = true;
                    self.unserved(last);
                }
                if code != frame::NO_ERROR {
                    let unserved = false;
                    return Err(SessionFailure::GoneAway { code, unserved });
                }
            }
        }
        let waiting = self.out.frames().len();
        self.answers += waiting - before;
        let most = match self.role {
            Role::Client => MOST_WAITING,
            Role::Server => MAX_ANSWERED,
        };
        if self.answers > MAX_FRAMES || waiting > most + MAX_FRAMES {
            return Err(CodecError::Flood.into());
        }
        Ok(arrived)
    }

    fn on_data(&mut self, stream: u32, bytes: &[u8]) -> Result<(), CodecError> {
        let Some(slot) = self.streams.get_mut(&stream) else {
            return Ok(());
        };
        if !slot.is_answered || slot.peer_finished {
            return Err(CodecError::Unexpected);
        }
        if !slot.window.said(bytes.len()) {
            return Err(CodecError::Window);
        }
        if slot.end.is_none() {
            let taken = slot.deliver(bytes);
            self.took(stream, taken);
        }
        Ok(())
    }

    fn on_end(&mut self, stream: u32) -> Result<(), CodecError> {
        if let Some(slot) = self.streams.get_mut(&stream) {
            if slot.peer_finished {
                return Err(CodecError::Unexpected);
            }
            // Of one that was given up, not all was delivered: its end would look like one in order.
            if slot.end.is_none() {
                slot.peer_finished = true;
                slot.wake();
            }
        }
        Ok(())
    }

    fn on_window(&mut self, stream: u32, more: u32) -> Result<(), CodecError> {
        const LARGEST: u32 = (1 << 31) - 1;
        if more == 0 {
            return Err(CodecError::Unexpected);
        }
        if let Some(slot) = self.streams.get_mut(&stream) {
            let allowed = slot.allowed.checked_add(more);
            slot.allowed = allowed
                .filter(|allowed| *allowed <= LARGEST)
                .ok_or(CodecError::Window)?;
            slot.wake();
        }
        Ok(())
    }

    fn on_headers(
        &mut self,
        stream: u32,
        fields: Box<Fields>,
    ) -> Result<Option<Arrived>, CodecError> {
        if stream <= self.highest {
            if self.role == Role::Client
                && let Some(slot) = self.streams.get_mut(&stream)
                && !std::mem::replace(&mut slot.is_answered, true)
            {
                slot.answer = Some(fields);
                slot.wake();
            }
            // Trailers, or of a stream that is over.
            return Ok(None);
        }
        if self.role == Role::Client || stream.is_multiple_of(2) {
            return Err(CodecError::Unexpected);
        }
        self.highest = stream;
        // Sent before the client heard that there are to be no more: it knows, and asks elsewhere.
        if self.is_retired {
            return Ok(None);
        }
        if self.streams.len() >= MOST_SERVED {
            frame::push_reset(self.out.frames(), stream, frame::REFUSED_STREAM);
            return Ok(None);
        }
        self.streams.insert(stream, Box::new(Slot::new(true)));
        Ok(Some(Arrived { stream, fields }))
    }
}
