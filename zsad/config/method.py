"""The options of any method, told apart by `method`."""

from zsad.config.aa_clip import AAClipConfig

# One member so far; a second makes it Annotated[A | B, Field(discriminator="method")].
MethodConfig = AAClipConfig
