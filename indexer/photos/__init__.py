"""Where photos come from: tables, folders, tar shards, URIs."""
