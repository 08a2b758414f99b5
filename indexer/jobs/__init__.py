"""Work in shards that may be killed at any moment: its folder, its stages, how far it has come."""
