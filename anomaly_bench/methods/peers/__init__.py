"""Published methods that papers compare with: one file a peer, each a thin adapter of anomalib's model."""
