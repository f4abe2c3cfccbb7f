"""Options of backbones and methods as frozen pydantic models; imports no torch.

An option's meaning is described here and used in the method's own file of the same name.
"""
