"""One file per data set or export format, each behind `ingestion.batch.Source`."""
