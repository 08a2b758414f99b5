"""A service: photos come in by HTTP, answers go out. It answers by the library's own `Locator`."""
