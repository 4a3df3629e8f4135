"""DCGAN + LSRO (Zheng et al., ICCV 2017)."""
