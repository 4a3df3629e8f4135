"""HHL's camera-style model: StarGAN with one domain a camera."""
