"""PTGAN: Person Transfer GAN (Wei et al., CVPR 2018)."""
