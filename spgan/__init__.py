"""SPGAN: Similarity Preserving GAN (Deng et al., CVPR 2018)."""
