"""How well a model does, and how sure a number can be."""
