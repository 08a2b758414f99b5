"""The embedded world: photos, class maps and places made from files that ship inside Python packages."""
