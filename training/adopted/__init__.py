"""Published models and tables, each read into one dataclass, and what they lack."""
