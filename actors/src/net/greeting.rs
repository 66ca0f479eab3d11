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
        let mut answers = vec![FromHolder::Hello(ours)];
        let ToHolder::Hello(theirs) = link.read().await? else {
            let why = "the first message was not HELLO";
            answers.push(FromHolder::Refused { refusal: Refusal::Protocol, why: why.into() });
            link.write(&answers).await?;
            return Err(LinkError::Unexpected("a request before HELLO"));
        };
        if theirs.version != VERSION {
            let why = theirs.version_mismatch();
            answers.push(FromHolder::Refused { refusal: Refusal::Version, why: why.clone() });
            link.write(&answers).await?;
            return Err(LinkError::Refused(why));
        }
        link.write(&answers).await?;
        Ok(theirs)
    })
    .await;
    let theirs = match theirs {
        Ok(theirs) => theirs,
        Err(error) => {
            // Whoever was told why it is refused is to hear it.
            if matches!(error, LinkError::Unexpected(_) | LinkError::Refused(_)) {
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
