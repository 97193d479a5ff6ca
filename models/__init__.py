"""Audio architectures. Importing this package registers every plugin; ``python -m models`` lists them."""

from models.registry import Architecture, Backbone, Checkpoint, build, get, load_plugins, names, sections

__all__ = ["Architecture", "Backbone", "Checkpoint", "build", "get", "names", "sections"]

load_plugins()
