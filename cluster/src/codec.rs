//! Messages in postcard's encoding, for gRPC.

use std::marker::PhantomData;

use bytes::{Buf, BufMut};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tonic::Status;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};

/// Encodes one type and decodes another.
pub struct Postcard<E, D>(PhantomData<fn(E) -> D>);

impl<E, D> Default for Postcard<E, D> {
    fn default() -> Self {
        Postcard(PhantomData)
    }
}

impl<E, D> Codec for Postcard<E, D>
where
    E: Serialize + Send + 'static,
    D: DeserializeOwned + Send + 'static,
{
    type Encode = E;
    type Decode = D;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self::default()
    }

    fn decoder(&mut self) -> Self {
        Self::default()
    }
}

impl<E: Serialize, D> Encoder for Postcard<E, D> {
    type Item = E;
    type Error = Status;

    fn encode(&mut self, item: E, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        let bytes = postcard::to_stdvec(&item).map_err(|error| Status::internal(error.to_string()))?;
        to.put_slice(&bytes);
        Ok(())
    }
}

impl<E, D: DeserializeOwned> Decoder for Postcard<E, D> {
    type Item = D;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<D>, Status> {
        let bytes = from.copy_to_bytes(from.remaining());
        let odd =
            |_| Status::invalid_argument("the message makes no sense: do all machines run the same version?");
        postcard::from_bytes(&bytes).map(Some).map_err(odd)
    }
}
