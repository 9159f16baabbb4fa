DROP TABLE matcher.snapshots;
