"""The scoring service: eligibility, recommendation and the impression log behind one endpoint."""
