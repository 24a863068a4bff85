"""Loss terms: tensors in, one scalar out, a mean over samples wherever that is possible; no logging, no models."""
