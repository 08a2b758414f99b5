"""Learning the encoder and the geocells together, as the paper does (section III-C)."""

import lazy_loader

# The names are those of the stub beside this file, each loaded when somebody asks for it.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
