"""HHL's camera-style model: a StarGAN whose domains are the cameras of the target."""
