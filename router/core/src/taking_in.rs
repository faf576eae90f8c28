//! The way in, the same for a running router and for a command that opened the store itself: redacts, checks the limits, stores.

use router_api::{Accepted, AdminError, DecodeLimits, Publication, Published, Transport};

use crate::redact::Redactor;

/// Takes one event in; also how many values of it were redacted here or before.
///
/// # Errors
///
/// When the body is no JSON object within the limits, or the transport does not take it.
pub async fn take_in(
    transport: &dyn Transport,
    redactor: Option<&Redactor>,
    limits: DecodeLimits,
    publication: Publication,
) -> Result<(Accepted, u32), AdminError> {
    let (publication, taken) = Taken::new(redactor, limits, publication)?;
    Ok(taken.accepted(transport.publish(publication).await?))
}

/// Takes several in, in their order.
///
/// # Errors
///
/// As for one: of the first that fails, behind what was stored before it.
pub async fn take_in_all(
    transport: &dyn Transport,
    redactor: Option<&Redactor>,
    limits: DecodeLimits,
    publications: Vec<Publication>,
) -> Result<Vec<(Accepted, u32)>, (Vec<(Accepted, u32)>, AdminError)> {
    let (mut ready, mut taken, mut refused) = (Vec::with_capacity(publications.len()), Vec::with_capacity(publications.len()), None);
    for publication in publications {
        match Taken::new(redactor, limits, publication) {
            Ok((publication, one)) => {
                ready.push(publication);
                taken.push(one);
            }
            Err(error) => {
                refused = Some(error);
                break;
            }
        }
    }
    let (published, failed) = match transport.publish_all(ready).await {
        Ok(published) => (published, None),
        Err((published, error)) => (published, Some(error.into())),
    };
    let accepted = taken.into_iter().zip(published).map(|(taken, published)| taken.accepted(published)).collect();
    match failed.or(refused) {
        None => Ok(accepted),
        Some(error) => Err((accepted, error)),
    }
}

/// What is said of an event once it is stored.
struct Taken {
    event_id: Option<String>,
    body: bytes::Bytes,
    redactions: u32,
}

impl Taken {
    /// Redacts and checks.
    fn new(redactor: Option<&Redactor>, limits: DecodeLimits, mut publication: Publication) -> Result<(Publication, Self), AdminError> {
        // Checked before redaction, which reads the whole body.
        if publication.body.len() > limits.body_bytes_max {
            let (bytes, max) = (publication.body.len(), limits.body_bytes_max);
            return Err(AdminError::Invalid(format!("the event is {bytes} bytes long, `limits.body_bytes_max` is {max}")));
        }
        if let Some(redactor) = redactor {
            let redacted = redactor.redact(&publication.body);
            publication.body = redacted.body;
            publication.redactions += redacted.count;
        }
        let envelope = publication.envelope(limits).map_err(|error| AdminError::Invalid(format!("no event: {error}")))?;
        let event_id = envelope.id().map(|id| id.as_str().to_owned());
        let (body, redactions) = (publication.body.clone(), publication.redactions);
        Ok((publication, Self { event_id, body, redactions }))
    }

    fn accepted(self, published: Published) -> (Accepted, u32) {
        (Accepted { published, event_id: self.event_id, body: Some(self.body) }, self.redactions)
    }
}
