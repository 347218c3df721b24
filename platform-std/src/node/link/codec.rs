//! Messages on a stream: a length, a kind, a body. The page about them is `platform-std/docs/link.md`.

use std::io;

use quorate::typed::MapLimits;
use quorate::{ClusterId, NodeId};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// What both sides have to begin with.
const MAGIC: [u8; 8] = *b"quorate\n";
/// The version of everything on this page.
pub(super) const VERSION: u16 = 2;
/// A longer message is no message: the longest frame, and room for a question around a command.
const MESSAGE_BYTES_MAX: usize = 0x1_0000 + 256;
/// A longer reason is cut.
const REASON_BYTES_MAX: usize = u8::MAX as usize;

/// The cluster that a node names which does not know it yet.
const UNKNOWN: ClusterId = ClusterId([0; 4]);

/// One message behind the hello.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Message<B> {
    /// A frame of the core.
    Frame(B),
    /// Wants a pong with the same number.
    Ping(u64),
    Pong(u64),
    /// Something for the leader to do, and its number.
    Ask(u64, B),
    Answer(u64, B),
    /// Whom this is for is no member any more.
    Removed,
}

impl<B: AsRef<[u8]>> Message<B> {
    fn parts(&self) -> (u8, Option<u64>, &[u8]) {
        match self {
            Self::Frame(bytes) => (0, None, bytes.as_ref()),
            Self::Ping(number) => (1, Some(*number), &[]),
            Self::Pong(number) => (2, Some(*number), &[]),
            Self::Ask(number, bytes) => (3, Some(*number), bytes.as_ref()),
            Self::Answer(number, bytes) => (4, Some(*number), bytes.as_ref()),
            Self::Removed => (5, None, &[]),
        }
    }

    pub(super) async fn write(&self, to: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
        let (kind, number, bytes) = self.parts();
        let number = number.map(u64::to_be_bytes);
        let number: &[u8] = number.as_ref().map_or(&[], |number| number);
        let len = (1 + number.len() + bytes.len()) as u32;
        to.write_all(&len.to_be_bytes()).await?;
        to.write_all(&[kind]).await?;
        to.write_all(number).await?;
        to.write_all(bytes).await
    }
}

impl Message<Vec<u8>> {
    /// The next one. Not to be dropped half way: what was read of it would be lost.
    pub(super) async fn read(from: &mut (impl AsyncRead + Unpin)) -> io::Result<Self> {
        let len = from.read_u32().await? as usize;
        if len == 0 || len > MESSAGE_BYTES_MAX {
            return Err(garbage(format!("a message of {len} bytes")));
        }
        let mut bytes = vec![0; len];
        from.read_exact(&mut bytes).await?;
        let kind = bytes.remove(0);
        let mut number = || match bytes.split_first_chunk::<8>() {
            Some((number, rest)) => {
                let number = u64::from_be_bytes(*number);
                bytes = rest.to_vec();
                Ok(number)
            }
            None => Err(garbage(format!("a message of kind {kind} and {len} bytes"))),
        };
        Ok(match kind {
            0 => Self::Frame(bytes),
            1 => Self::Ping(number()?),
            2 => Self::Pong(number()?),
            3 => Self::Ask(number()?, bytes),
            4 => Self::Answer(number()?, bytes),
            5 => Self::Removed,
            _ => return Err(garbage(format!("a message of the kind {kind}"))),
        })
    }
}

fn garbage(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// What the side says that has dialled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hello {
    pub(super) version: u16,
    pub(super) from: u8,
    pub(super) to: u8,
    pub(super) cluster: ClusterId,
    /// What its map may hold; `None`: what follows from the cluster's limits, which it is still to be told.
    pub(super) map: Option<MapLimits>,
}

impl Hello {
    pub(super) const fn new(
        cluster: ClusterId,
        from: NodeId,
        to: NodeId,
        map: Option<MapLimits>,
    ) -> Self {
        Self { version: VERSION, from: from.get(), to: to.get(), cluster, map }
    }

    /// Asks only which cluster this is.
    pub(super) const fn question(from: NodeId, to: NodeId) -> Self {
        Self::new(UNKNOWN, from, to, None)
    }

    pub(super) const fn is_question(&self) -> bool {
        u32::from_be_bytes(self.cluster.0) == 0
    }

    pub(super) async fn write(&self, to: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend(self.version.to_be_bytes());
        bytes.extend([self.from, self.to]);
        bytes.extend(self.cluster.0);
        let MapLimits { keys, key_bytes, value_bytes, bytes: all } = self.map.unwrap_or_default();
        bytes.extend(keys.to_be_bytes());
        bytes.push(key_bytes);
        bytes.extend(value_bytes.to_be_bytes());
        bytes.extend(all.to_be_bytes());
        to.write_all(&bytes).await?;
        to.flush().await
    }

    pub(super) async fn read(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Self> {
        let mut bytes = [0; 16];
        // Whoever speaks something else is told so at once.
        stream.read_exact(&mut bytes[..8]).await?;
        if bytes[..8] != MAGIC {
            return Err(garbage("not the beginning of a link".into()));
        }
        stream.read_exact(&mut bytes[8..]).await?;
        let [.., v0, v1, from, to, c0, c1, c2, c3] = bytes;
        let version = u16::from_be_bytes([v0, v1]);
        let mut hello = Self { version, from, to, cluster: ClusterId([c0, c1, c2, c3]), map: None };
        // What other versions have here is not known, and they are refused.
        if version == VERSION {
            hello.map = Self::read_map(stream).await?;
        }
        Ok(hello)
    }

    async fn read_map(from: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<MapLimits>> {
        let map = MapLimits {
            keys: from.read_u16().await?,
            key_bytes: from.read_u8().await?,
            value_bytes: from.read_u16().await?,
            bytes: from.read_u32().await?,
        };
        Ok(Some(map).filter(|map| *map != MapLimits::default()))
    }
}

/// Does the other side talk to us?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Yes.
    Welcome,
    /// No.
    Refused,
    /// No: we are no member any more.
    Removed,
}

/// What the other side answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Welcome {
    /// Its cluster.
    pub(super) cluster: ClusterId,
    pub(super) verdict: Verdict,
    /// Why, in words.
    pub(super) reason: String,
}

impl Welcome {
    pub(super) async fn write(&self, to: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
        let mut end = self.reason.len().min(REASON_BYTES_MAX);
        while !self.reason.is_char_boundary(end) {
            end -= 1;
        }
        let mut bytes = MAGIC.to_vec();
        bytes.extend(VERSION.to_be_bytes());
        bytes.extend(self.cluster.0);
        bytes.extend([self.verdict as u8, end as u8]);
        bytes.extend(&self.reason.as_bytes()[..end]);
        to.write_all(&bytes).await?;
        to.flush().await
    }

    pub(super) async fn read(from: &mut (impl AsyncRead + Unpin)) -> io::Result<Self> {
        let mut bytes = [0; 16];
        from.read_exact(&mut bytes).await?;
        if bytes[..8] != MAGIC {
            return Err(garbage("what answers there is no node".into()));
        }
        // Where the version matters, the reason says so.
        let [.., c0, c1, c2, c3, verdict, len] = bytes;
        let verdict = match verdict {
            0 => Verdict::Welcome,
            2 => Verdict::Removed,
            _ => Verdict::Refused,
        };
        let mut reason = vec![0; usize::from(len)];
        from.read_exact(&mut reason).await?;
        let reason = String::from_utf8_lossy(&reason).into_owned();
        Ok(Self { cluster: ClusterId([c0, c1, c2, c3]), verdict, reason })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
    }

    #[test]
    fn a_message_is_read_as_it_was_written() {
        let messages = [
            Message::Frame(vec![1; 0x1_0000]),
            Message::Ping(7),
            Message::Pong(u64::MAX),
            Message::Ask(3, b"put".to_vec()),
            Message::Answer(4, Vec::new()),
            Message::Removed,
        ];
        block_on(async {
            let mut bytes = Vec::new();
            for message in &messages {
                message.write(&mut bytes).await.unwrap();
            }
            let mut rest = &bytes[..];
            for message in &messages {
                assert_eq!(Message::read(&mut rest).await.unwrap(), *message);
            }
            assert!(rest.is_empty());
        });
    }

    #[test]
    fn garbage_is_told_and_not_waited_for() {
        let told = |bytes: &[u8]| {
            block_on(async { Message::read(&mut &bytes[..]).await.unwrap_err().to_string() })
        };
        assert_eq!(told(&[0xff; 8]), "a message of 4294967295 bytes");
        assert_eq!(told(&[0; 4]), "a message of 0 bytes");
        assert_eq!(told(&[0, 0, 0, 1, 9]), "a message of the kind 9");
        assert_eq!(told(&[0, 0, 0, 2, 1, 0]), "a message of kind 1 and 2 bytes");
        let http = b"GET / HTTP/1.1\r\n";
        let hello = block_on(async { Hello::read(&mut &http[..]).await.unwrap_err().to_string() });
        assert_eq!(hello, "not the beginning of a link");
    }

    #[test]
    fn both_hellos_are_read_as_they_were_written() {
        block_on(async {
            let (one, two) = (NodeId::new(1).unwrap(), NodeId::new(2).unwrap());
            let map = MapLimits { keys: 300, key_bytes: 12, value_bytes: 600, bytes: 70_000 };
            let hello = Hello::new(ClusterId([1, 2, 3, 4]), one, two, Some(map));
            for hello in [hello, Hello { map: None, ..hello }] {
                let mut bytes = Vec::new();
                hello.write(&mut bytes).await.unwrap();
                let mut rest = &bytes[..];
                assert_eq!(Hello::read(&mut rest).await.unwrap(), hello);
                assert!(rest.is_empty());
            }
            // Of another version what is the same in all of them is enough.
            let mut bytes = Vec::new();
            hello.write(&mut bytes).await.unwrap();
            bytes.truncate(16);
            bytes[9] = 1;
            assert_eq!(Hello::read(&mut &bytes[..]).await.unwrap().version, 1);
            assert!(Hello::question(one, two).is_question() && !hello.is_question());
            let long = "ä".repeat(400);
            for (verdict, reason) in [
                (Verdict::Welcome, ""),
                (Verdict::Refused, "no"),
                (Verdict::Removed, long.as_str()),
            ] {
                let cluster = hello.cluster;
                let welcome = Welcome { cluster, verdict, reason: reason.into() };
                let mut bytes = Vec::new();
                welcome.write(&mut bytes).await.unwrap();
                let read = Welcome::read(&mut &bytes[..]).await.unwrap();
                assert_eq!((read.cluster, read.verdict), (cluster, verdict));
                let cut = &reason[..reason.len().min(254)];
                assert_eq!(read.reason, cut);
            }
        });
    }
}
