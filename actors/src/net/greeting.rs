//! HELLO on the connection between a getter and a holder, from either side.

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncWrite};

use super::link::{ControlLink, LinkError, within_hello_budget};
use crate::wire::peer::{FromHolder, ToHolder};
use crate::wire::{Hello, Refusal, VERSION};

/// The holder's side: takes the getter's HELLO and answers it. Returns the greeting, the stream and
/// what was read behind it.
///
/// # Errors
/// Anything but a HELLO of our version, in time.
pub async fn answer<S>(stream: S, ours: Hello) -> Result<(Hello, S, BytesMut), LinkError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut link = ControlLink::new(stream);
    let theirs = within_hello_budget(async {
        let (refusal, why, error) = match link.read().await {
            Ok(ToHolder::Hello(theirs)) if theirs.version == VERSION => {
                link.write(&[FromHolder::Hello(ours)]).await?;
                return Ok(theirs);
            }
            Ok(ToHolder::Hello(theirs)) => {
                let why = theirs.version_mismatch();
                (Refusal::Version, why.clone(), LinkError::Refused(why))
            }
            Ok(_) => {
                let why = "the first message was not HELLO";
                (Refusal::Protocol, why.into(), LinkError::Unexpected("a request before HELLO"))
            }
            Err(LinkError::Frame(error)) => (Refusal::Protocol, error.to_string(), error.into()),
            Err(error) => return Err(error),
        };
        link.write(&[FromHolder::Hello(ours), FromHolder::Refused { refusal, why }]).await?;
        Err(error)
    })
    .await;
    let theirs = match theirs {
        Ok(theirs) => theirs,
        Err(error) => {
            // Whoever was told why it is refused is to hear it.
            if matches!(error, LinkError::Unexpected(_) | LinkError::Refused(_) | LinkError::Frame(_)) {
                link.finish().await;
            }
            return Err(error);
        }
    };
    let (stream, read) = link.into_parts();
    Ok((theirs, stream, read))
}

/// The getter's side: says HELLO and takes the holder's. Returns as [`answer`] does.
///
/// # Errors
/// Anything but a HELLO of our version, in time.
pub async fn greet<S>(stream: S, ours: Hello) -> Result<(Hello, S, BytesMut), LinkError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut link = ControlLink::new(stream);
    let theirs = within_hello_budget(async {
        link.write(&[ToHolder::Hello(ours)]).await?;
        match link.read().await? {
            FromHolder::Hello(theirs) if theirs.version == VERSION => Ok(theirs),
            FromHolder::Hello(theirs) => Err(LinkError::Refused(theirs.version_mismatch())),
            FromHolder::Refused { why, .. } => Err(LinkError::Refused(why)),
            _ => Err(LinkError::Unexpected("an answer before HELLO")),
        }
    })
    .await?;
    let (stream, read) = link.into_parts();
    Ok((theirs, stream, read))
}
