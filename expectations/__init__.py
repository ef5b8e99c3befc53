"""Great Expectations: what must hold where strangers meet us, at raw batches in and at training rows out."""
